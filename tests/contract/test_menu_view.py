"""The port MenuView: the fake, and the adapter for rumps over a rumps that draws nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mlxmesh_cli.menubar.ports import SEPARATOR, Item, MenuView
from mlxmesh_cli.menubar.rumps_view import RumpsView
from tests.fakes.menubar import FakeMenu
from tests.fakes.rumps import FakeRumps


@dataclass
class Case:
    """A view, and what a person would see and do."""

    view: MenuView
    lines: Callable[[], list[tuple[str, bool, list[str]]]]
    """Text, check mark and submenu of each line."""
    choose: Callable[[str], None]
    title: Callable[[], str]
    told: Callable[[], list[str]]
    has_quit: Callable[[], bool]


def the_fake() -> Case:
    menu = FakeMenu()

    def lines() -> list[tuple[str, bool, list[str]]]:
        return [
            (item.text, item.is_checked, [child.text for child in item.children])
            for item in menu.items
        ]

    return Case(
        menu, lines, menu.choose, lambda: menu.title, lambda: menu.told, lambda: menu.has_quit
    )


def with_rumps() -> Case:
    rumps = FakeRumps()
    view = RumpsView(rumps, refresh_interval_s=1)
    view.run(lambda: None)  # returns: the clock stands still

    def turned() -> Any:
        rumps.turn()
        return rumps.app

    def lines() -> list[tuple[str, bool, list[str]]]:
        found = turned().menu.lines
        return [
            ("", False, [])
            if line is None
            else (line.title, bool(line.state), [child.title for child in line.children])
            for line in found
        ]

    def choose(text: str) -> None:
        line = next(line for line in turned().menu.lines if line and line.title == text)
        assert line.callback is not None
        done = threading.Event()
        line.callback(line)
        view._worker.submit(done.set)
        assert done.wait(10)

    def has_quit() -> bool:
        rumps.turn()
        return rumps.has_quit

    def told() -> list[str]:
        rumps.turn()
        return rumps.notifications

    return Case(view, lines, choose, lambda: turned().title, told, has_quit)


@pytest.fixture(params=[the_fake, with_rumps])
def case(request: pytest.FixtureRequest) -> Case:
    return request.param()


def test_lines_check_marks_and_submenus(case: Case) -> None:
    child = Item("Unload", lambda: None)
    case.view.show("mesh", [Item("qwen", is_checked=True, children=(child,)), SEPARATOR, Item("x")])
    assert case.lines() == [("qwen", True, ["Unload"]), ("", False, []), ("x", False, [])]
    assert case.title() == "mesh"


def test_what_is_shown_last_stays(case: Case) -> None:
    case.view.show("one", [Item("a"), Item("b")])
    case.view.show("two", [Item("c")])
    assert [text for text, _, _ in case.lines()] == ["c"]
    assert case.title() == "two"


def test_a_chosen_line_acts(case: Case) -> None:
    done: list[str] = []
    case.view.show("mesh", [Item("go", lambda: done.append("gone"))])
    case.choose("go")
    assert done == ["gone"]


def test_any_thread_may_show_and_tell(case: Case) -> None:
    def work() -> None:
        case.view.show("mesh", [Item("from a thread")])
        case.view.tell("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [text for text, _, _ in case.lines()] == ["from a thread"]
    assert case.told() == ["done"]


def test_it_quits(case: Case) -> None:
    assert not case.has_quit()
    case.view.quit()
    assert case.has_quit()

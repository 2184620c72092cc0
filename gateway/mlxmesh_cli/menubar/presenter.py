"""Decides what the menu shows and what its lines do."""

from __future__ import annotations

from collections.abc import Callable

from mlxmesh_cli.menubar.ports import SEPARATOR, Item, MenuView, Mesh, MeshState, ModelState
from mlxmesh_shared.errors import MeshError

MAX_MODELS = 30
MAX_TEXT = 60


class MenuBar:
    """Shows one mesh in one menu. Its methods block while the mesh works."""

    def __init__(self, view: MenuView, mesh: Mesh) -> None:
        self._view = view
        self._mesh = mesh
        self._state = MeshState()
        self._busy = ""

    def refresh(self) -> None:
        """Reads the state and shows it."""
        try:
            self._state = self._mesh.state()
        except MeshError as error:
            self._show(problem=str(error))
            return
        self._show()

    def _show(self, problem: str = "") -> None:
        state = self._state
        lines = [Item(shortened(problem or self._busy or summary(state)))]
        if state.is_running and not problem:
            lines += [SEPARATOR, *self._models()]
        self._view.show(title(state, is_busy=bool(self._busy)), [*lines, *self._actions(problem)])

    def _models(self) -> list[Item]:
        shown = self._state.models[:MAX_MODELS]
        items = [self._model(model) for model in shown]
        if more := len(self._state.models) - len(shown):
            items.append(Item(f"{more} more in the console"))
        return items or [Item("no models")]

    def _model(self, model: ModelState) -> Item:
        name = model.name
        if model.is_wanted:
            act = Item("Unload", self._doing(f"unloading {name}", lambda: self._mesh.unload(name)))
        else:
            act = Item("Load", self._doing(f"loading {name}", lambda: self._mesh.load(name)))
        text = shortened(f"{name}: {model.words}")
        return Item(text, is_checked=model.is_wanted, children=(act,))

    def _actions(self, problem: str) -> list[Item]:
        may_open = self._state.is_running and not problem
        if self._state.is_running:
            turn = Item("Stop mesh", self._doing("stopping the mesh", self._mesh.stop))
        else:
            turn = Item("Start mesh", self._doing("starting the mesh", self._mesh.start))
        opening = Item("Open console", self._open if may_open else None)
        return [SEPARATOR, opening, turn, SEPARATOR, Item("Quit menu", self._view.quit)]

    def _doing(self, words: str, work: Callable[[], None]) -> Callable[[], None]:
        """An action that says what it does, and afterwards how it went."""

        def act() -> None:
            self._busy = words
            self._show()
            try:
                work()
            except MeshError as error:
                self._view.tell(f"{words} failed: {error}")
            else:
                self._view.tell(f"{words}: done")
            finally:
                self._busy = ""
            self.refresh()

        return act

    def _open(self) -> None:
        url = self._mesh.console()
        if url is None:
            self._view.tell("the gateway has no HTTP port, so there is no console")
        else:
            self._view.open(url)


def title(state: MeshState, *, is_busy: bool) -> str:
    """The few characters in the menu bar."""
    if is_busy:
        return "mesh …"
    if not state.is_running:
        return "mesh off"
    if state.processes_down:
        return "mesh !"
    return f"{state.tokens_per_s:.0f} tok/s" if state.tokens_per_s >= 1 else "mesh"


def summary(state: MeshState) -> str:
    """The first line of the menu."""
    if not state.is_running:
        return "The mesh does not run"
    down = f", {state.processes_down} down" if state.processes_down else ""
    return f"{state.running} running, {state.tokens_per_s:.0f} tokens/s{down}"


def shortened(text: str) -> str:
    """One line that fits into a menu; names and errors are not ours."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 1]}…"

"""The part of rumps that the menu bar uses, without AppKit: nothing is drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class MenuItem:
    """A line; one without a callback is grey."""

    def __init__(self, title: str, callback: Callable[[Any], None] | None = None) -> None:
        self.title = title
        self.callback = callback
        self.state = 0
        self.children: list[MenuItem] = []

    def add(self, child: MenuItem) -> None:
        """A line of its submenu."""
        self.children.append(child)


class Menu:
    """The lines of the app."""

    def __init__(self, rumps: FakeRumps) -> None:
        self._rumps = rumps
        self.lines: list[MenuItem | None] = []

    def clear(self) -> None:
        """Removes all lines."""
        self._rumps.check_thread()
        self.lines = []

    def update(self, lines: list[MenuItem | None]) -> None:
        """Adds lines; None is a separator."""
        self._rumps.check_thread()
        self.lines += lines


class FakeRumps:
    """The module `rumps`."""

    separator = None
    MenuItem = MenuItem

    def __init__(self) -> None:
        self.timers: list[Callable[[Any], None]] = []
        self.notifications: list[str] = []
        self.has_quit = False
        self.app: Any = None
        self.turns = 0
        """How often `run` turns the clock before it returns."""
        self._main = threading.current_thread()

    def App(self, name: str, *, title: str, quit_button: object) -> Any:
        """The app; `run` turns every timer until it quits."""
        assert quit_button is None, "the menu has its own line for that"
        rumps = self

        class App:
            def __init__(self) -> None:
                self.title = title
                self.menu = Menu(rumps)

            def run(self) -> None:
                rumps.turn(rumps.turns)

        self.app = App()
        return self.app

    def Timer(self, callback: Callable[[Any], None], interval_s: float) -> Any:
        """A timer that `turn` fires."""
        assert interval_s > 0
        rumps = self

        class Timer:
            def start(self) -> None:
                rumps.timers.append(callback)

        return Timer()

    def notification(self, title: str, subtitle: str, message: str) -> None:
        """A notification."""
        self.check_thread()
        self.notifications.append(message)

    def quit_application(self) -> None:
        """Ends the app."""
        self.check_thread()
        self.has_quit = True

    def turn(self, times: int = 1) -> None:
        """Fires every timer."""
        for _ in range(times):
            for callback in self.timers:
                callback(None)

    def check_thread(self) -> None:
        """AppKit ends a program that draws on another thread."""
        assert threading.current_thread() is self._main

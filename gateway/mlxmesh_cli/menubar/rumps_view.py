"""The MenuView of macOS, by rumps.

AppKit may only be used on the main thread: what other threads show waits for a timer there, and
what is chosen runs on a thread of its own.
"""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlxmesh_cli.menubar.ports import SEPARATOR, Item

APPLY_INTERVAL_S = 0.2
NAME = "mlxmesh"


class RumpsView:
    """One status item of the menu bar; `run` returns when it quits."""

    def __init__(self, rumps: Any, refresh_interval_s: float) -> None:
        """`rumps` is the module of that name, which exists on macOS only."""
        self._rumps = rumps
        self._refresh_interval_s = refresh_interval_s
        self._app = rumps.App(NAME, title=NAME, quit_button=None)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="menubar")
        self._lock = threading.Lock()
        self._next: tuple[str, Sequence[Item]] | None = None
        self._told: list[str] = []
        self._leaves = False
        self._refreshing = threading.Lock()

    def run(self, refresh: Callable[[], None]) -> None:
        """Runs the app on the main thread; `refresh` is called again and again on another."""

        def apply(_: Any) -> None:
            self._apply()

        def again(_: Any) -> None:
            self._refresh(refresh)

        self._rumps.Timer(apply, APPLY_INTERVAL_S).start()
        self._rumps.Timer(again, self._refresh_interval_s).start()
        self._refresh(refresh)
        self._app.run()

    def show(self, title: str, items: Sequence[Item]) -> None:
        """As of MenuView."""
        with self._lock:
            self._next = (title, tuple(items))

    def tell(self, text: str) -> None:
        """As of MenuView."""
        with self._lock:
            self._told.append(text)

    def open(self, url: str) -> None:
        """As of MenuView."""
        webbrowser.open(url)

    def quit(self) -> None:
        """As of MenuView."""
        self._leaves = True

    def _refresh(self, refresh: Callable[[], None]) -> None:
        """Skipped while the last one, or an action, has not ended."""
        if not self._leaves and self._refreshing.acquire(blocking=False):
            self._worker.submit(refresh).add_done_callback(lambda _: self._refreshing.release())

    def _apply(self) -> None:
        with self._lock:
            shown, self._next = self._next, None
            told, self._told = self._told, []
        if shown is not None:
            self._app.title = shown[0]
            self._app.menu.clear()
            self._app.menu.update(self._entries(shown[1]))
        for text in told:
            self._rumps.notification(NAME, "", text)
        if self._leaves:
            self._worker.shutdown(wait=False, cancel_futures=True)
            self._rumps.quit_application()

    def _entries(self, items: Sequence[Item]) -> list[Any]:
        return [self._rumps.separator if item is SEPARATOR else self._entry(item) for item in items]

    def _entry(self, item: Item) -> Any:
        entry = self._rumps.MenuItem(item.text, callback=self._callback(item.action))
        entry.state = int(item.is_checked)
        for child in item.children:
            entry.add(self._entry(child))
        return entry

    def _callback(self, action: Callable[[], None] | None) -> Callable[[Any], None] | None:
        if action is None:
            return None
        if action == self.quit:
            return lambda _: action()
        return lambda _: self._submit(action)

    def _submit(self, action: Callable[[], None]) -> None:
        self._worker.submit(action)

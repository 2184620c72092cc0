"""A menu and a mesh in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mlxmesh_cli.menubar.ports import Item, MeshState, ModelState
from mlxmesh_shared.errors import ServiceUnavailable


class FakeMenu:
    """As of MenuView; keeps what it shows."""

    def __init__(self) -> None:
        self.title = ""
        self.items: tuple[Item, ...] = ()
        self.titles: list[str] = []
        self.told: list[str] = []
        self.opened: list[str] = []
        self.has_quit = False

    def show(self, title: str, items: Sequence[Item]) -> None:
        """As of MenuView."""
        self.title, self.items = title, tuple(items)
        self.titles.append(title)

    def tell(self, text: str) -> None:
        """As of MenuView."""
        self.told.append(text)

    def open(self, url: str) -> None:
        """As of MenuView."""
        self.opened.append(url)

    def quit(self) -> None:
        """As of MenuView."""
        self.has_quit = True

    def texts(self) -> list[str]:
        """The lines that are shown; a separator is empty."""
        return [item.text for item in self.items]

    def choose(self, *texts: str) -> None:
        """Chooses a line, or one below it; it must be one that can be chosen."""
        items, found = self.items, None
        for text in texts:
            found = next(item for item in items if item.text == text)
            items = found.children
        assert found is not None
        assert found.action is not None, texts
        found.action()


class FakeMesh:
    """As of Mesh."""

    def __init__(self, state: MeshState) -> None:
        self.current = state
        self.fails = ""
        """What every call fails with; empty for none."""
        self.address: str | None = "http://127.0.0.1:8051"
        self.during: Callable[[], None] = lambda: None
        """Called while a call works."""

    def state(self) -> MeshState:
        """As of Mesh."""
        self._work()
        return self.current

    def load(self, model: str) -> None:
        """As of Mesh."""
        self._want(model, True)

    def unload(self, model: str) -> None:
        """As of Mesh."""
        self._want(model, False)

    def start(self) -> None:
        """As of Mesh."""
        self._work()
        self.current = replace(self.current, is_running=True)

    def stop(self) -> None:
        """As of Mesh."""
        self._work()
        self.current = MeshState()

    def console(self) -> str | None:
        """As of Mesh."""
        self._work()
        return self.address

    def _want(self, name: str, wanted: bool) -> None:
        self._work()
        if not self.current.is_running:
            raise ServiceUnavailable("the mesh does not run; start it first")
        words = "ready" if wanted else "available"
        models = (
            ModelState(name, wanted, words) if one.name == name else one
            for one in self.current.models
        )
        self.current = replace(self.current, models=tuple(models))

    def _work(self) -> None:
        self.during()
        if self.fails:
            raise ServiceUnavailable(self.fails)

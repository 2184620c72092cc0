"""What the menu shows, and the ports between it, the screen and the mesh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class ModelState:
    """One model of the mesh."""

    name: str
    is_wanted: bool
    """Whether it is loaded, or being loaded."""
    words: str
    """Its state: ready, loading, available, failed, ..."""


@dataclass(frozen=True)
class MeshState:
    """The mesh, as the menu shows it."""

    is_running: bool = False
    models: tuple[ModelState, ...] = ()
    tokens_per_s: float = 0.0
    """Over the last minute."""
    running: int = 0
    """Generations that are running."""
    processes_down: int = 0


@dataclass(frozen=True)
class Item:
    """A line of the menu; without an action it cannot be chosen."""

    text: str
    action: Callable[[], None] | None = None
    is_checked: bool = False
    children: tuple[Item, ...] = field(default=())


SEPARATOR = Item("")


class MenuView(Protocol):
    """The menu bar. Every method may be called from any thread."""

    def show(self, title: str, items: Sequence[Item]) -> None:
        """Replaces the title and the menu."""
        ...

    def tell(self, text: str) -> None:
        """Shows a notification."""
        ...

    def open(self, url: str) -> None:
        """Opens a page in the browser."""
        ...

    def quit(self) -> None:
        """Ends the app."""
        ...


class Mesh(Protocol):
    """The mesh of one data directory. Its methods block, and raise MeshError."""

    def state(self) -> MeshState:
        """Its state now; one that does not run is no error."""
        ...

    def load(self, model: str) -> None:
        """Returns once the model is ready."""
        ...

    def unload(self, model: str) -> None:
        """Drains and unloads it."""
        ...

    def start(self) -> None:
        """Returns once the mesh serves."""
        ...

    def stop(self) -> None:
        """Drains and stops it."""
        ...

    def console(self) -> str | None:
        """The address of the console, if there is one."""
        ...

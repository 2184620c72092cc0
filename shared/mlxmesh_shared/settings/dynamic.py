"""Settings that may change while their process runs, and what a key-value store says of them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from mlxmesh_shared.settings.layers import SettingsError, load_settings
from mlxmesh_shared.settings.sections import MeshSettings, dynamic_names

_log = logging.getLogger(__name__)

S = TypeVar("S", bound=MeshSettings)


def live_settings(cls: type[S], argv: Sequence[str]) -> "LiveSettings[S]":
    """The settings of this process. Raises: SettingsError."""
    return LiveSettings(lambda stored: load_settings(cls, argv, stored=stored))


class LiveSettings(Generic[S]):
    """A process's settings as they are now; only those marked dynamic ever change.

    A value that is not legal is logged and passed over: the last good one stays.
    """

    def __init__(self, load: Callable[[Mapping[str, str]], S]) -> None:
        """`load` makes the settings with what a store says, and may raise SettingsError."""
        self._load = load
        self._good: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._subscribers: list[Callable[[S], None]] = []
        self._watchers: list[Callable[[Mapping[str, object]], None]] = []
        self.current = load({})
        self._dynamic = dynamic_names(type(self.current))

    @property
    def stored(self) -> Mapping[str, str]:
        """What of the store's content is in use."""
        return self._good

    def subscribe(self, use: Callable[[S], None]) -> None:
        """Has `use` called with the settings now, and again after each change."""
        self._subscribers.append(use)
        use(self.current)

    def watch(self, tell: Callable[[Mapping[str, object]], None]) -> None:
        """Has `tell` called after each change with the settings that changed, by name."""
        self._watchers.append(tell)

    def apply(self, values: Mapping[str, str]) -> None:
        """Takes a store's whole content, setting name to text; one that is gone is unset."""
        self._refused = {name: text for name, text in self._refused.items() if name in values}
        self._good = {name: text for name, text in self._good.items() if name in values}
        for name, text in values.items():
            self._take(name, text)
        changed = self._load(self._good)
        if changed != self.current:
            self._tell(changed)

    def _take(self, name: str, text: str) -> None:
        try:
            if name not in self._dynamic:
                raise SettingsError(
                    f"{name} is not a setting that can change while the process runs; "
                    f"these can: {', '.join(sorted(self._dynamic))}"
                )
            self._load(self._good | {name: text})
            self._good[name] = text
            self._refused.pop(name, None)
        except SettingsError as error:
            # Once for each illegal value, not each time that something else changes.
            if self._refused.get(name) != text:
                self._refused[name] = text
                _log.error("passed over a setting of the key-value store: %s", error)

    def _tell(self, changed: S) -> None:
        before, self.current = self.current, changed
        names = [n for n in self._dynamic if getattr(before, n) != getattr(changed, n)]
        fields = {name: getattr(changed, name) for name in sorted(names)}
        _log.info("settings changed", extra={"fields": fields})
        for use in self._subscribers:
            use(changed)
        for tell in self._watchers:
            tell(fields)

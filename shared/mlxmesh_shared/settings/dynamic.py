"""Settings that may change while their process runs, by the content of a configuration store."""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

from mlxmesh_shared.settings.layers import SettingsError, load_with_sources
from mlxmesh_shared.settings.sections import MeshSettings, dynamic_names

_log = logging.getLogger(__name__)

S = TypeVar("S", bound=MeshSettings)


def live_settings(cls: type[S], argv: Sequence[str]) -> "LiveSettings[S]":
    """The settings of this process. Raises: SettingsError."""
    origins: dict[str, str] = {}

    def load(stored: Mapping[str, str]) -> S:
        settings, now = load_with_sources(cls, argv, stored=stored)
        origins.clear()
        origins.update(now)
        return settings

    return LiveSettings(load, origins)


def section_values(content: Mapping[str, str], section: str) -> dict[str, str]:
    """A section's settings in a store's content (SECTION/SETTING to text).

    A key of the section overrides the same key of `mesh`.
    """
    return _below(content, "mesh/") | _below(content, f"{section}/")


def _below(content: Mapping[str, str], folder: str) -> dict[str, str]:
    # A key that ends in a slash is a folder; Consul's own pages create such keys.
    return {
        key.removeprefix(folder): text
        for key, text in content.items()
        if key.startswith(folder) and key != folder
    }


class LiveSettings(Generic[S]):
    """The current settings of a process; only those marked dynamic ever change.

    An invalid value is logged and ignored: the last valid one stays in use.
    """

    def __init__(
        self,
        load: Callable[[Mapping[str, str]], S],
        origins: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`load` makes the settings from a store's values, and may raise SettingsError."""
        self._load = load
        self.origins = origins
        """Where the settings come from that have not their defaults, by name."""
        self._valid: dict[str, str] = {}
        self._rejected: dict[str, str] = {}
        self._subscribers: list[Callable[[S], None]] = []
        self._watchers: list[Callable[[Mapping[str, object]], None]] = []
        self.current = load({})
        self._dynamic = dynamic_names(type(self.current))

    @property
    def stored(self) -> Mapping[str, str]:
        """The store's values that are in use."""
        return self._valid

    def subscribe(self, apply: Callable[[S], None]) -> None:
        """Calls `apply` with the settings now and after each change."""
        self._subscribers.append(apply)
        apply(self.current)

    def watch(self, on_change: Callable[[Mapping[str, object]], None]) -> None:
        """Calls `on_change` after each change with the settings that changed, by name."""
        self._watchers.append(on_change)

    def apply(self, values: Mapping[str, str]) -> None:
        """Applies all values of a store, setting name to text; a setting without one is unset."""
        self._rejected = {name: text for name, text in self._rejected.items() if name in values}
        kept = {name: text for name, text in self._valid.items() if name in values}
        if not values and kept == self._valid:
            return
        self._valid = kept
        for name, text in values.items():
            self._apply_one(name, text)
        changed = self._load(self._valid)
        if changed != self.current:
            self._notify(changed)

    def _apply_one(self, name: str, text: str) -> None:
        try:
            if name not in self._dynamic:
                raise SettingsError(
                    f"{name} is not a setting that can change while the process runs; "
                    f"these can: {', '.join(sorted(self._dynamic))}"
                )
            self._load(self._valid | {name: text})
            self._valid[name] = text
            self._rejected.pop(name, None)
        except SettingsError as error:
            # Once for each invalid value, not after each change of another one.
            if self._rejected.get(name) != text:
                self._rejected[name] = text
                _log.error("ignored a setting in the configuration store: %s", error)

    def _notify(self, changed: S) -> None:
        before, self.current = self.current, changed
        names = [n for n in self._dynamic if getattr(before, n) != getattr(changed, n)]
        fields = {name: getattr(changed, name) for name in sorted(names)}
        _log.info("settings changed", extra={"fields": fields})
        for apply in self._subscribers:
            apply(changed)
        for on_change in self._watchers:
            on_change(fields)

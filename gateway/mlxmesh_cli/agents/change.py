"""What is set in a configuration, and how that is undone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

from mlxmesh_cli.agents.formats import Format, KeyPath, UnusableFile


@dataclass(frozen=True)
class Setting:
    """A value that the agent needs."""

    path: KeyPath
    value: Any
    is_default: bool = False
    """Whether what is there already stays."""


@dataclass(frozen=True)
class Applied:
    """A value that was set, and what was there before."""

    path: KeyPath
    value: Any
    had: bool
    before: Any
    made: int
    """How many of the path's first keys were there; the further ones were made."""


class Edited(Exception):
    """Values that were set here and have other values now."""

    def __init__(self, paths: Sequence[KeyPath]) -> None:
        super().__init__(", ".join(".".join(path) for path in paths))
        self.paths = paths


def apply(form: Format, text: str, settings: Sequence[Setting]) -> tuple[str, list[Applied]]:
    """The text with the settings, and what changed. Raises: UnusableFile."""
    applied: list[Applied] = []
    for setting in settings:
        data = form.read(text)
        known = _depth(data, setting.path)
        had = known == len(setting.path)
        if setting.is_default and had:
            continue
        before = _at(data, setting.path) if had else None
        if not had and not isinstance(_at(data, setting.path[:known]), (dict, type(None))):
            raise UnusableFile(f"{'.'.join(setting.path[:known])} has another form")
        if not had or before != setting.value:
            text = _checked(form, data, form.with_value(text, setting.path, setting.value), setting)
        applied.append(Applied(setting.path, setting.value, had, before, known))
    return text, applied


def _checked(form: Format, data: dict[str, Any], text: str, setting: Setting) -> str:
    """The text, once it was read again: it has the setting, and all else is as it was."""
    expected = deepcopy(data)
    inner = expected
    for key in setting.path[:-1]:
        inner[key] = inner.get(key) or {}
        inner = inner[key]
    inner[setting.path[-1]] = setting.value
    if form.read(text) != expected:
        raise UnusableFile(f"{'.'.join(setting.path)} cannot be set without other changes")
    return text


def revert(form: Format, text: str, applied: Sequence[Applied], *, strict: bool = True) -> str:
    """The text without what was set; other edits stay.

    Values that were edited since stay too, unless `strict`. Raises: Edited, UnusableFile.
    """
    edited = [one.path for one in applied if not _is_ours(form.read(text), one)]
    if edited and strict:
        raise Edited(edited)
    for one in reversed(applied):
        if one.path in edited:
            continue
        if one.had:
            if one.before != one.value:
                text = form.with_value(text, one.path, one.before)
            continue
        text = form.without(text, one.path)
        for length in range(len(one.path) - 1, one.made, -1):
            prefix = one.path[:length]
            if _at(form.read(text), prefix) not in ({}, []):
                break
            text = form.without(text, prefix)
    return text


def _is_ours(data: dict[str, Any], one: Applied) -> bool:
    return _depth(data, one.path) == len(one.path) and _at(data, one.path) == one.value


def _depth(data: Any, path: KeyPath) -> int:
    """How many keys of the path are there."""
    for depth, key in enumerate(path):
        if not isinstance(data, dict) or key not in data:
            return depth
        data = cast("dict[str, Any]", data)[key]
    return len(path)


def _at(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data[key]
    return data

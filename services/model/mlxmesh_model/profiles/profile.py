"""Profiles as domain objects: their settings, references to them, and what is legal. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from hashlib import sha256

from mlxmesh_shared.errors import InvalidArgument

DEFAULT = "default"
"""The profile without settings: it always exists, in one revision, 0."""

OF_OUTPUT = frozenset({"tool_format", "reasoning_format", "chat_template"})
"""Settings that take effect without a restart of engines."""


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Settings of an engine, and how the output of its model is read; None keeps the default."""

    dtype: str | None = None
    context_tokens: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_type: str | None = None
    prefix_cache_bytes: int | None = None
    prefix_disk_bytes: int | None = None
    max_running: int | None = None
    max_waiting: int | None = None
    prefill_tokens_per_step: int | None = None
    forward: str | None = None
    max_adapters: int | None = None
    adapter_bytes: int | None = None
    speculative: str | None = None
    draft_model: str | None = None
    """NAME@VERSION of the model that proposes tokens, with speculative `draft`."""
    group_size: int | None = None
    """Ranks that compute one replica together."""
    group_split: str | None = None
    """How they divide the model: tensor, pipeline or auto."""
    tool_format: str | None = None
    reasoning_format: str | None = None
    chat_template: str | None = None

    @property
    def given(self) -> Mapping[str, str | int]:
        """The settings that are not the default."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def settings_id(self) -> str:
        """Equal for settings that start equal engines; empty for the defaults."""
        of_engine = {n: value for n, value in self.given.items() if n not in OF_OUTPUT}
        text = json.dumps(of_engine, sort_keys=True)
        return sha256(text.encode()).hexdigest()[:16] if of_engine else ""

    def without_template(self) -> EngineProfile:
        """The settings without the large one."""
        return replace(self, chat_template=None)


NO_SETTINGS = EngineProfile()


@dataclass(frozen=True, slots=True)
class GroupChoice:
    """What a load says about groups, in place of the profile; None for nothing."""

    size: int | None = None
    split: str | None = None

    def __bool__(self) -> bool:
        return self != NO_CHOICE

    def over(self, settings: EngineProfile) -> EngineProfile:
        """The settings with this choice; the defaults are left out, so that equal settings are
        equal however they came about.
        """
        size = settings.group_size if self.size is None else self.size
        split = settings.group_split if self.split is None else self.split
        grouped = size is not None and size > 1
        return replace(
            settings,
            group_size=size if grouped else None,
            group_split=split if grouped and split != "auto" else None,
        )


NO_CHOICE = GroupChoice()


@dataclass(frozen=True, slots=True)
class ProfileReference:
    """A profile, in one revision; without a revision, in its newest one."""

    name: str
    revision: int | None = None

    @classmethod
    def parse(cls, text: str) -> ProfileReference:
        """NAME or NAME@REVISION, as the contract's pattern allows it."""
        name, _, revision = text.partition("@")
        return cls(name, int(revision) if revision else None)

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


@dataclass(frozen=True, slots=True)
class Profile:
    """One revision of a profile, and the versions that use any revision of it."""

    name: str
    revision: int
    settings: EngineProfile
    created_at: datetime | None = None
    used_by: tuple[str, ...] = ()


def check_settable(name: str) -> None:
    """Raises: InvalidArgument for the name of the defaults."""
    if name == DEFAULT:
        raise InvalidArgument(
            f"{DEFAULT} is the profile without settings and cannot be changed; choose another name",
            field="name",
        )


def check_draft(settings: EngineProfile) -> None:
    """Raises: InvalidArgument unless there is a draft model exactly where one is asked."""
    if (settings.speculative == "draft") != (settings.draft_model is not None):
        raise InvalidArgument(
            "draft_model and speculative `draft` need each other; set both or none of them",
            field="settings.draft_model",
        )


def check_fits_model(profile: Profile, *, label: str, context_tokens: int) -> None:
    """Raises: InvalidArgument if a version cannot be loaded with the profile.

    `context_tokens` is the largest number that the version's model knows; 0 if it is unknown.
    """
    wanted = profile.settings.context_tokens
    if wanted is not None and 0 < context_tokens < wanted:
        raise InvalidArgument(
            f"profile {profile.name}@{profile.revision} sets context_tokens to {wanted:,}, but "
            f"{label} knows at most {context_tokens:,}; set the profile to that or less",
            field="profile",
        )

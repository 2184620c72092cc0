"""Counts each generation once, whichever calls read it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mlxmesh_gateway.forwarding.used import Used

MAX_REMEMBERED = 4096
"""Generations; one that is forgotten counts again when it is read again."""


@dataclass(slots=True)
class _Counted:
    """What was counted of one generation."""

    created_ns: int = 0
    model: str = ""
    model_version: int = 0
    first_sequence: int = 0
    last_sequence: int = 0
    """The messages that were read, from first to last; what else was read is not remembered."""
    read_tokens: int = 0
    """Of messages."""
    tokens: int = 0
    """Of messages and snapshots."""
    prompt: bool = False
    device: bool = False


class CountedOnce:
    """Remembers what was counted of the latest generations, by principal and request_id."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._counted: dict[tuple[str, str], _Counted] = {}

    def reading(self, principal_id: str, request_id: str) -> Used:
        """For a call that reads a generation: says which messages were read before."""
        before = self._counted.get((principal_id, request_id), _Counted())
        return Used(
            request_id=request_id,
            created_ns=before.created_ns,
            model=before.model,
            model_version=before.model_version,
            first_sequence=before.first_sequence,
            last_sequence=before.last_sequence,
        )

    def settle(self, principal_id: str, used: Used, *, begins: bool) -> None:
        """Leaves in `used` what was not counted before.

        begins: whether the call asked for the generation, which may be a repetition.
        """
        if not used.request_id:
            return
        key = principal_id, used.request_id
        before = self._counted.pop(key, None)
        if before is None or _is_other(before, used, begins=begins):
            before = _Counted()
        used.repeated = before.prompt
        self._counted[key] = _settled(before, used, whole=begins)
        if len(self._counted) > self._max_remembered:
            del self._counted[next(iter(self._counted))]


def _is_other(before: _Counted, used: Used, *, begins: bool) -> bool:
    """Whether the request_id names another generation by now."""
    if before.created_ns and used.created_ns:
        return before.created_ns != used.created_ns
    return begins  # an instance of an earlier version does not say


def _settled(before: _Counted, used: Used, *, whole: bool) -> _Counted:
    """whole: whether the call read from the first message on."""
    # Of whole streams the longer one has the other's messages.
    extends = whole and before.first_sequence <= 1
    read_tokens = before.read_tokens + used.completion_tokens
    if extends:
        read_tokens = max(before.read_tokens, used.completion_tokens)
    seen_tokens = max(read_tokens, used.snapshot_tokens)
    if used.total_tokens:
        seen_tokens = min(seen_tokens, used.total_tokens)
    after = _Counted(
        created_ns=used.created_ns or before.created_ns,
        model=used.model,
        model_version=used.model_version,
        first_sequence=1 if whole else used.first_sequence,
        last_sequence=max(used.last_sequence, before.last_sequence if extends else 0),
        read_tokens=read_tokens,
        tokens=max(before.tokens, seen_tokens),
        prompt=True,
        device=before.device or used.device_ms > 0,
    )
    _keep_only_new(before, used, after.tokens)
    return after


def _keep_only_new(before: _Counted, used: Used, tokens: int) -> None:
    used.completion_tokens = tokens - before.tokens
    if before.prompt:
        used.prompt_tokens = used.cached_tokens = 0
    if before.device:
        used.device_ms = 0.0

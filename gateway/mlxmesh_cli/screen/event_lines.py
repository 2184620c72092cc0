"""Events for people: one line each, made from the contract, so that new ones need no code here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from typing import Any

from google.protobuf.message import Message
from rich.text import Text

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.telemetry.v1.events_pb2 import GAP_REASON_LOG_MISMATCH, Event, Gap
from mlxmesh_shared.events import event_payload

_BAD = ("crashed", "failed", "opened", "overloaded", "left")
_GOOD = ("ready", "loaded", "resumed", "closed", "registered", "pulled")


def event_line(event: Event) -> Text:
    """Local time, name, what it belongs to, and the facts that this does not tell already."""
    time = event.time.ToDatetime(tzinfo=UTC).astimezone()
    line = Text(f"{time:%H:%M:%S}.{time.microsecond // 1000:03d} ", style="dim")
    line.append(f"{event.name:20} ", style=_style(event.name))
    facts = event_payload(event)
    told = _shown(event.correlation_id)
    line.append(told, style="bold")
    words = list(_words(facts, told=event.correlation_id)) if facts is not None else []
    line.append("".join(f" {word}" for word in words), style="default")
    return line


def gap_line(gap: Gap) -> Text:
    """What a Gap says, in words."""
    if gap.reason == GAP_REASON_LOG_MISMATCH:
        return Text("-- another gateway, or restarted: events may be missing here --", style="red")
    return Text(f"-- {gap.missing_events} events are no longer kept --", style="red")


def _words(facts: Message, *, told: str) -> Iterable[str]:
    for field, value in facts.ListFields():
        if isinstance(value, Failure):
            yield f"{value.reason}: {_shown(value.message)}"
        elif field.is_repeated:
            pairs: Any = value
            yield from (_shown(f"{name}={pairs[name]}") for name in sorted(pairs))
        elif value != told and not (field.name in ("model", "version") and "@" in told):
            yield f"{field.name}={_shown(str(value))}"


def _shown(text: str) -> str:
    """What a terminal would obey is replaced."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _style(name: str) -> str:
    action = name.partition(".")[2]
    if action.endswith(_BAD):
        return "red"
    return "green" if action.endswith(_GOOD) else "cyan"

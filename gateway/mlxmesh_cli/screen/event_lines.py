"""Events as text, one line each; generic, so that new event types need no code here."""

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
    """Local time, name, correlation id, and the remaining facts."""
    time = event.time.ToDatetime(tzinfo=UTC).astimezone()
    line = Text(f"{time:%H:%M:%S}.{time.microsecond // 1000:03d} ", style="dim")
    line.append(f"{event.name:20} ", style=_style(event.name))
    facts = event_payload(event)
    line.append(_shown(event.correlation_id), style="bold")
    words = list(_words(facts, known=event.correlation_id)) if facts is not None else []
    line.append("".join(f" {word}" for word in words), style="default")
    return line


def gap_line(gap: Gap) -> Text:
    """A Gap as text."""
    if gap.reason == GAP_REASON_LOG_MISMATCH:
        return Text(
            "-- the gateway changed or restarted: events may be missing here --", style="red"
        )
    return Text(f"-- {gap.missing_events} events are no longer retained --", style="red")


def _words(facts: Message, *, known: str) -> Iterable[str]:
    for field, value in facts.ListFields():
        if isinstance(value, Failure):
            yield f"{value.reason}: {_shown(value.message)}"
        elif field.is_repeated and field.message_type is not None:
            pairs: Any = value  # a map: no event has a list of messages
            yield from (_shown(f"{name}={pairs[name]}") for name in sorted(pairs))
        elif field.is_repeated:
            yield _shown(f"{field.name}={','.join(map(str, value))}")
        elif value != known and not (field.name in ("model", "version") and "@" in known):
            yield f"{field.name}={_shown(str(value))}"


def _shown(text: str) -> str:
    """The text with control characters replaced."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _style(name: str) -> str:
    action = name.partition(".")[2]
    if action.endswith(_BAD):
        return "red"
    return "green" if action.endswith(_GOOD) else "cyan"

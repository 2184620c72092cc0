"""Converts rollouts, changes and counts to stored JSON and back."""

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from mlxmesh_model.rollouts.guards import Counts
from mlxmesh_model.rollouts.rollout import Change, Guard, Metric, Reading, Rollout, State, Wish
from mlxmesh_shared.telemetry.histograms import decoded, encoded

_TIMES = ("created_at", "step_at", "ended_at", "time")


def rollout_text(rollout: Rollout) -> str:
    """A rollout as it is stored."""
    return json.dumps(asdict(rollout), default=datetime.isoformat)


def to_rollout(text: str) -> Rollout:
    """A rollout from its stored form."""
    stored = _with_times(json.loads(text))
    wish = stored.pop("wish")
    guards, steps = map(to_guard, wish.pop("guards")), wish.pop("steps")
    return Rollout(
        wish=Wish(steps=tuple(steps), guards=tuple(guards), **wish),
        state=State(stored.pop("state")),
        **stored,
    )


def to_guard(stored: dict[str, Any]) -> Guard:
    """A guard from its stored form."""
    return Guard(metric=Metric(stored.pop("metric")), **stored)


def change_text(change: Change) -> str:
    """A change as it is stored."""
    return json.dumps(asdict(change), default=datetime.isoformat)


def to_change(text: str) -> Change:
    """A change from its stored form."""
    stored = _with_times(json.loads(text))
    return Change(
        state=State(stored.pop("state")),
        readings=tuple(_to_readings(stored.pop("readings"))),
        **stored,
    )


def _to_readings(stored: Iterable[dict[str, Any]]) -> Iterable[Reading]:
    for each in stored:
        yield Reading(guard=to_guard(each.pop("guard")), **each)


def counts_text(counts: Counts) -> str:
    """Counts as they are stored."""
    # Not asdict: it makes a Counter of a Counter's items.
    stored: dict[str, Any] = {each.name: getattr(counts, each.name) for each in fields(counts)}
    for name in ("ttft", "tpot"):
        stored[name] = base64.b64encode(encoded(stored[name])).decode()
    return json.dumps(stored)


def to_counts(text: str) -> Counts:
    """Counts from their stored form."""
    stored = json.loads(text)
    for name in ("ttft", "tpot"):
        stored[name] = decoded(base64.b64decode(stored[name]))
    return Counts(**stored)


def _with_times(stored: dict[str, Any]) -> dict[str, Any]:
    times = {
        name: datetime.fromisoformat(stored[name])
        for name in _TIMES
        if stored.get(name) is not None
    }
    return {**stored, **times}

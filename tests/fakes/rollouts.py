"""Rollouts, versions and outcomes for tests, and a clock that stands still."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mlxmesh_model.catalogue.lifecycle import State as VersionState
from mlxmesh_model.catalogue.models import FailureRecord, Phase, Replica, Source, Version
from mlxmesh_model.outcomes.outcome import Outcome, Status
from mlxmesh_model.rollouts.rollout import Guard, Metric, Rollout, Wish

START = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
ERRORS_BELOW_1_PERCENT = Guard(Metric.ERROR_RATE, 0.01)
NO_MEMORY = FailureRecord(8, "INSUFFICIENT_MEMORY", "chat@2 needs more memory")


class WallClock:
    """Satisfies controller.Clock; stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        """Moves on."""
        self.now += timedelta(seconds=seconds)


def wish(**changes: Any) -> Wish:
    """From version 1 to version 2 of chat."""
    default = Wish(
        model="chat",
        alias="default",
        to_version=2,
        steps=(1, 10, 50, 100),
        hold_s=600,
        guards=(ERRORS_BELOW_1_PERCENT,),
        min_requests=20,
    )
    return replace(default, **changes)


def rollout(asked: Wish | None = None, **changes: Any) -> Rollout:
    """One that has just started."""
    default = Rollout(
        rollout_id="r-1",
        wish=asked or wish(),
        from_version=1,
        created_at=START,
        step_at=START,
        replicas=1,
        previous_replicas=0,
    )
    return replace(default, **changes)


def version(*, ready: int = 1, desired: int = 1, failure: FailureRecord | None = None) -> Version:
    """Version 2 of chat with so many ready replicas."""
    replicas = tuple(Replica(f"chat-v2-{n}", "runtime-1", Phase.READY) for n in range(ready))
    blank = Version("chat", 2, VersionState.LOADING, Source("/m"), START, desired_replicas=desired)
    return blank.with_replicas(replicas, failure)


def outcome(number: int = 0, **changes: Any) -> Outcome:
    """One generation of rollout r-1 that completed at version 2."""
    default = Outcome(
        request_id=f"request-{number}",
        principal="user:ada",
        model="chat",
        version=2,
        status=Status.COMPLETED,
        end_time=START,
        arm="new",
        rollout_id="r-1",
        completion_tokens=10,
        ttft_ms=50.0,
        tpot_ms=5.0,
    )
    return replace(default, **changes)


def failed(number: int = 0, **changes: Any) -> Outcome:
    """One generation that failed for a reason of the mesh."""
    changes = {"status": Status.FAILED, "error_reason": "ENGINE_FAILED", **changes}
    return outcome(number, **changes)

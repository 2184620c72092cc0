"""Converts rollouts to RolloutService's messages and back."""

import base64
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import rollout_pb2 as pb
from mlxmesh_model.catalogue.models import DEFAULT_ALIAS
from mlxmesh_model.rollouts.rollout import Change, Guard, Metric, Reading, Rollout, State, Wish
from mlxmesh_shared.errors import InvalidArgument

_STATES = {
    State.PREPARING: pb.ROLLOUT_STATE_PREPARING,
    State.PROGRESSING: pb.ROLLOUT_STATE_PROGRESSING,
    State.PAUSED: pb.ROLLOUT_STATE_PAUSED,
    State.PROMOTED: pb.ROLLOUT_STATE_PROMOTED,
    State.ROLLED_BACK: pb.ROLLOUT_STATE_ROLLED_BACK,
    State.ABORTED: pb.ROLLOUT_STATE_ABORTED,
}
_METRICS = {
    Metric.ERROR_RATE: pb.GUARD_METRIC_ERROR_RATE,
    Metric.TTFT_P50: pb.GUARD_METRIC_TTFT_P50,
    Metric.TTFT_P95: pb.GUARD_METRIC_TTFT_P95,
    Metric.TTFT_P99: pb.GUARD_METRIC_TTFT_P99,
    Metric.TPOT_P50: pb.GUARD_METRIC_TPOT_P50,
    Metric.TPOT_P95: pb.GUARD_METRIC_TPOT_P95,
    Metric.TOKENS_PER_REQUEST: pb.GUARD_METRIC_TOKENS_PER_REQUEST,
    Metric.INVALID_RATE: pb.GUARD_METRIC_INVALID_RATE,
}
_OF_METRIC = {number: metric for metric, number in _METRICS.items()}

DEFAULT_STEPS = (1, 10, 50, 100)
DEFAULT_HOLD_S = 600
DEFAULT_MIN_REQUESTS = 20
DEFAULT_GUARDS = (Guard(Metric.ERROR_RATE, 0.01),)
_PAGE = "before:"


def to_wish(request: pb.StartRolloutRequest) -> Wish:
    """The rollout that a request asks for. Raises: InvalidArgument."""
    has = request.HasField
    return Wish(
        model=request.name,
        alias=request.alias or DEFAULT_ALIAS,
        to_version=request.to_version,
        steps=_growing(tuple(request.steps)) or DEFAULT_STEPS,
        hold_s=request.hold_s if has("hold_s") else DEFAULT_HOLD_S,
        guards=tuple(map(_to_guard, request.guards)) or DEFAULT_GUARDS,
        min_requests=request.min_requests if has("min_requests") else DEFAULT_MIN_REQUESTS,
    )


def _growing(steps: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise InvalidArgument(f"steps must grow, as in 1, 10, 50, 100; not {steps}", field="steps")
    return steps


def _to_guard(message: pb.Guard) -> Guard:
    metric = _OF_METRIC.get(message.metric)
    if metric is None:
        raise InvalidArgument("metric of a guard is unknown", field="guards")
    return Guard(metric, message.bound, above=message.above, relative=message.relative)


def to_rollout(
    rollout: Rollout,
    *,
    requests: int = 0,
    readings: Iterable[Reading] = (),
    history: Iterable[Change] = (),
) -> pb.Rollout:
    """A rollout; what it reads and its history are not in lists."""
    wish = rollout.wish
    return pb.Rollout(
        rollout_id=rollout.rollout_id,
        model=wish.model,
        alias=wish.alias,
        from_version=rollout.from_version,
        to_version=wish.to_version,
        state=_STATES[rollout.state],
        steps=wish.steps,
        step=rollout.step,
        weight=rollout.weight,
        hold=Duration(seconds=wish.hold_s),
        guards=map(_from_guard, wish.guards),
        min_requests=wish.min_requests,
        create_time=_time(rollout.created_at),
        step_time=_time(rollout.step_at),
        end_time=_time(rollout.ended_at) if rollout.ended_at is not None else None,
        readings=map(_from_reading, readings),
        requests=requests,
        history=map(_from_change, history),
    )


def _from_guard(guard: Guard) -> pb.Guard:
    return pb.Guard(
        metric=_METRICS[guard.metric],
        above=guard.above,
        bound=guard.bound,
        relative=guard.relative,
    )


def _from_reading(reading: Reading) -> pb.GuardReading:
    return pb.GuardReading(
        guard=_from_guard(reading.guard),
        value=reading.value,
        baseline=reading.baseline,
        kept=reading.kept,
    )


def _from_change(change: Change) -> pb.RolloutChange:
    return pb.RolloutChange(
        time=_time(change.time),
        state=_STATES[change.state],
        step=change.step,
        weight=change.weight,
        reason=change.reason,
        readings=map(_from_reading, change.readings),
        principal=change.principal,
    )


def _time(at: datetime) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(at)
    return time


def to_page_token(position: Sequence[int | str]) -> str:
    """The token of the page that starts after a position."""
    created_us, rollout_id = position
    return base64.urlsafe_b64encode(f"{_PAGE}{created_us}:{rollout_id}".encode()).decode()


def from_page_token(token: str) -> tuple[int, str] | None:
    """The position that a page starts after; None for the first page.

    Raises: InvalidArgument for a token that to_page_token did not make.
    """
    if not token:
        return None
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
        created_us, _, rollout_id = text.removeprefix(_PAGE).partition(":")
        if text.startswith(_PAGE) and len(created_us) <= 18 and created_us.isdecimal():
            return int(created_us), rollout_id
    except ValueError:
        pass
    raise InvalidArgument(
        "page_token must be next_page_token of an earlier response", field="page_token"
    )

"""Converts usage to the messages of AccessService and PolicyService, and back."""

from collections.abc import Sequence

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import policy_pb2
from mlxmesh_access.clock import DAY_MS, HOUR_MS
from mlxmesh_access.usage.models import (
    Amounts,
    Group,
    UsageKey,
    UsageQuery,
    UsageRecord,
    UsageSum,
    hour_of,
)
from mlxmesh_access.usage.usage_rows import columns_of
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.page_tokens import Position
from mlxmesh_shared.timestamps import from_time, to_time

_DEFAULT_PERIOD_MS = 30 * DAY_MS
_GROUPS = {
    pb.USAGE_GROUP_KEY: Group.KEY,
    pb.USAGE_GROUP_USER: Group.USER,
    pb.USAGE_GROUP_TEAM: Group.TEAM,
    pb.USAGE_GROUP_MODEL: Group.MODEL,
    pb.USAGE_GROUP_HOUR: Group.HOUR,
    pb.USAGE_GROUP_DAY: Group.DAY,
}
_NUMBERS = ("model_version", "hour_ms", "day_ms")


def from_usage_query(request: pb.QueryUsageRequest, now_ms: int) -> UsageQuery:
    """Which usage to sum. Raises: InvalidArgument."""
    to_ms = from_time(request.to, "to") if request.HasField("to") else now_ms
    # `from` is a word of Python's.
    begin = getattr(request, "from")
    from_ms = from_time(begin, "from") if request.HasField("from") else to_ms - _DEFAULT_PERIOD_MS
    if from_ms > to_ms:
        raise InvalidArgument("from must not be after to", field="from")
    return UsageQuery(
        from_ms=hour_of(max(0, from_ms)),
        to_ms=hour_of(to_ms + HOUR_MS - 1),
        groups=tuple(_group(number, index) for index, number in enumerate(request.group_by)),
        user=request.user,
        key_id=request.key_id,
        model=request.model,
    )


def first_position(groups: Sequence[Group]) -> Position:
    """The types of a position among the sums by these groups."""
    return tuple(0 if column in _NUMBERS else "" for column in columns_of(groups))


def to_usage_row(usage: UsageSum) -> pb.UsageRow:
    """The sum of one group."""
    key = usage.key
    return pb.UsageRow(
        key_id=key.key_id,
        user=key.user,
        team=key.team,
        model=key.model,
        model_version=key.model_version,
        time=to_time(key.hour_ms),
        amounts=_to_amounts(usage.amounts),
    )


def from_usage_record(record: policy_pb2.UsageRecord, field: str) -> UsageRecord:
    """What was used. Raises: InvalidArgument."""
    key = UsageKey(
        principal=record.principal,
        key_id=record.key_id,
        user=record.user,
        team=record.team,
        model=record.model,
        model_version=record.model_version,
        hour_ms=hour_of(from_time(record.hour, f"{field}.hour")),
    )
    last_used_ms = 0
    if record.HasField("last_used"):
        last_used_ms = from_time(record.last_used, f"{field}.last_used")
    return UsageRecord(key, _from_amounts(record.amounts), last_used_ms)


def _group(number: pb.UsageGroup.ValueType, index: int) -> Group:
    if number not in _GROUPS:
        field = f"group_by[{index}]"
        raise InvalidArgument(f"{field} must say what to sum by", field=field)
    return _GROUPS[number]


def _to_amounts(amounts: Amounts) -> pb.UsageAmounts:
    return pb.UsageAmounts(
        requests=amounts.requests,
        errors=amounts.errors,
        prompt_tokens=amounts.prompt_tokens,
        cached_tokens=amounts.cached_tokens,
        completion_tokens=amounts.completion_tokens,
        device_s=amounts.device_us / 1_000_000,
    )


def _from_amounts(amounts: pb.UsageAmounts) -> Amounts:
    return Amounts(
        requests=amounts.requests,
        errors=amounts.errors,
        prompt_tokens=amounts.prompt_tokens,
        cached_tokens=amounts.cached_tokens,
        completion_tokens=amounts.completion_tokens,
        device_us=round(amounts.device_s * 1_000_000),
    )

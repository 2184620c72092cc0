"""Converts times to and from Timestamp. Pure."""

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh_shared.errors import InvalidArgument

_MAX_MS = 253_402_300_799_999
"""The end of the year 9999, the last time that a Timestamp may state."""


def to_time(time_ms: int) -> Timestamp | None:
    """A time; None, which leaves a field unset, for 0."""
    if not time_ms:
        return None
    time = Timestamp()
    time.FromMilliseconds(time_ms)
    return time


def from_time(time: Timestamp, field: str) -> int:
    """A time in milliseconds. Raises: InvalidArgument for one before 1970 or after 9999."""
    time_ms = time.seconds * 1000 + time.nanos // 1_000_000
    if not (0 < time_ms <= _MAX_MS and 0 <= time.nanos < 1_000_000_000):
        raise InvalidArgument(f"{field} must be a time from 1970 to 9999", field=field)
    return time_ms

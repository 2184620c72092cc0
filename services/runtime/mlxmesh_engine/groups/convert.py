"""Between the messages of a group's ranks and their wire form."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlxmesh.engine.v1 import group_pb2 as pb
from mlxmesh_engine.groups import operations as ops
from mlxmesh_engine.groups.messages import (
    Failed,
    FromFollower,
    FromLeader,
    Joined,
    Leaving,
    Serving,
    Started,
    Stopped,
)
from mlxmesh_shared.errors import Internal
from mlxmesh_shared.rpc.error_status import from_failure, to_failure


def from_follower(message: pb.FollowRequest) -> FromFollower:
    match message.WhichOneof("message"):
        case "join":
            join = message.join
            return Joined(join.rank, join.size, join.address, join.ring_address)
        case "failure":
            return Failed(from_failure(message.failure))
        case _:
            return Leaving()


def to_leader(message: FromFollower) -> pb.FollowRequest:
    match message:
        case Joined(rank, size, address, ring_address):
            return pb.FollowRequest(
                join=pb.Join(rank=rank, size=size, address=address, ring_address=ring_address)
            )
        case Failed(error):
            return pb.FollowRequest(failure=to_failure(error))
        case Leaving():
            return pb.FollowRequest(leave=pb.Leave())


def from_leader(message: pb.FollowResponse) -> FromLeader:
    match message.WhichOneof("message"):
        case "start":
            start = message.start
            return Started(tuple(start.addresses), tuple(start.ring_addresses))
        case "operations":
            return [_from_operation(each) for each in message.operations.operations]
        case "serve":
            return Serving()
        case _:
            return Stopped()


def to_follower(message: FromLeader) -> pb.FollowResponse:
    if isinstance(message, Started):
        return pb.FollowResponse(
            start=pb.Start(addresses=message.addresses, ring_addresses=message.ring_addresses)
        )
    if isinstance(message, Serving):
        return pb.FollowResponse(serve=pb.Serve())
    if isinstance(message, Stopped):
        return pb.FollowResponse(stop=pb.Stop())
    operations = [_to_operation(each) for each in message]
    return pb.FollowResponse(operations=pb.Operations(operations=operations))


def beat_request(rank: int) -> pb.BeatRequest:
    """A heartbeat of this rank."""
    return pb.BeatRequest(rank=rank)


def _to_operation(operation: ops.Operation) -> pb.Operation:
    match operation:
        case ops.NewCache(number, rows):
            return pb.Operation(new_cache=pb.NewCache(number=number, rows=rows))
        case ops.PrefillRows(cache, rows):
            return pb.Operation(prefill=pb.PrefillRows(cache=cache, rows=_to_rows(rows)))
        case ops.DecodeRows(cache):
            return pb.Operation(decode=pb.DecodeRows(cache=cache))
        case ops.ScoreRows(cache, rows):
            return pb.Operation(score=pb.ScoreRows(cache=cache, rows=_to_rows(rows)))
        case ops.ExtendCache(cache, other):
            return pb.Operation(extend=pb.ExtendCache(cache=cache, other=other))
        case ops.FilterCache(cache, rows):
            return pb.Operation(filter=pb.FilterCache(cache=cache, rows=rows))
        case ops.CopyRows(cache, rows, number):
            copied = pb.CopyRows(cache=cache, rows=rows, number=number)
            return pb.Operation(copy_rows=copied)
        case ops.Free(numbers):
            return pb.Operation(free=pb.Free(numbers=numbers))
        case _:
            return _to_storing(operation)


def _to_storing(
    operation: ops.StoreTokens | ops.StoreState | ops.TruncateRow | ops.ConcatenateRows,
) -> pb.Operation:
    match operation:
        case ops.StoreTokens(cache, row, start, stop, number):
            tokens = pb.StoreTokens(cache=cache, row=row, start=start, stop=stop, number=number)
            return pb.Operation(store_tokens=tokens)
        case ops.StoreState(cache, row, number):
            return pb.Operation(store_state=pb.StoreState(cache=cache, row=row, number=number))
        case ops.TruncateRow(row, tokens, number):
            truncated = pb.TruncateRow(row=row, tokens=tokens, number=number)
            return pb.Operation(truncate=truncated)
        case ops.ConcatenateRows(rows, number):
            return pb.Operation(concatenate=pb.ConcatenateRows(rows=rows, number=number))


def _from_operation(operation: pb.Operation) -> ops.Operation:
    kind = operation.WhichOneof("operation")
    if kind is None:
        raise Internal("rank 0 sent an operation that this version does not know")
    return _READERS[kind](getattr(operation, kind))


_READERS: Mapping[str, Callable[[Any], ops.Operation]] = {
    "new_cache": lambda of: ops.NewCache(of.number, tuple(of.rows)),
    "prefill": lambda of: ops.PrefillRows(of.cache, _from_rows(of.rows)),
    "decode": lambda of: ops.DecodeRows(of.cache),
    "score": lambda of: ops.ScoreRows(of.cache, _from_rows(of.rows)),
    "extend": lambda of: ops.ExtendCache(of.cache, of.other),
    "filter": lambda of: ops.FilterCache(of.cache, tuple(of.rows)),
    "copy_rows": lambda of: ops.CopyRows(of.cache, tuple(of.rows), of.number),
    "store_tokens": lambda of: ops.StoreTokens(of.cache, of.row, of.start, of.stop, of.number),
    "store_state": lambda of: ops.StoreState(of.cache, of.row, of.number),
    "truncate": lambda of: ops.TruncateRow(of.row, of.tokens, of.number),
    "concatenate": lambda of: ops.ConcatenateRows(tuple(of.rows), of.number),
    "free": lambda of: ops.Free(tuple(of.numbers)),
}


def _to_rows(rows: ops.Rows) -> Iterable[pb.RowTokens]:
    return [pb.RowTokens(token_ids=row) for row in rows]


def _from_rows(rows: Iterable[pb.RowTokens]) -> ops.Rows:
    return tuple(tuple(row.token_ids) for row in rows)

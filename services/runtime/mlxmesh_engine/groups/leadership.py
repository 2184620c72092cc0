"""Rank 0's side of the control streams: waits for all ranks, then passes operations on."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable

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
from mlxmesh_engine.groups.operations import Operation
from mlxmesh_engine.groups.peers import GroupPeers
from mlxmesh_shared.errors import IllegalState, InvalidArgument
from mlxmesh_shared.host.host_port import is_loopback, split_host_port

_STOP_TIMEOUT_S = 3.0

_log = logging.getLogger(__name__)


class _Outbox:
    """What one rank has yet to get."""

    def __init__(self) -> None:
        self._messages: deque[Serving | Stopped | Operation] = deque()
        self._filled = asyncio.Event()

    def put(self, *messages: Serving | Stopped | Operation) -> None:
        self._messages.extend(messages)
        self._filled.set()

    async def get(self) -> FromLeader:
        """All operations that are next, or another message."""
        while not self._messages:
            self._filled.clear()
            await self._filled.wait()
        operations: list[Operation] = []
        while self._messages:
            message = self._messages.popleft()
            if not isinstance(message, Serving | Stopped):
                operations.append(message)
            elif operations:
                self._messages.appendleft(message)
                break
            else:
                return message
        return tuple(operations)


class Leadership:
    """Owned by the event loop; `send` is for the MLX thread."""

    def __init__(self, own: Joined, peers: GroupPeers, leave: Callable[[], None]) -> None:
        """own: where rank 0 listens. leave: called when another rank was asked to stop."""
        self._own = own
        self._size = own.size
        self._peers = peers
        self._leave = leave
        self._members = {own.rank: own}
        self._outboxes: dict[int, _Outbox] = {}
        self._complete = asyncio.Event()
        self._event_loop = asyncio.get_running_loop()
        self._pending: deque[Operation] = deque()
        self._gone = asyncio.Event()

    async def wait_complete(self) -> Started:
        """Returns when all ranks have joined."""
        _log.info("waits for %d other ranks to join", self._size - 1)
        await self._complete.wait()
        return self._started()

    def send(self, operation: Operation) -> None:
        """Passes an operation on to all other ranks, without waiting."""
        self._pending.append(operation)
        self._event_loop.call_soon_threadsafe(self._distribute)

    def begin_serving(self) -> None:
        """Tells the other ranks that the start has ended."""
        self._tell_all(Serving())

    async def stop(self) -> None:
        """Tells the other ranks to end, and waits shortly until they have heard it."""
        self._peers.stop()
        self._tell_all(Stopped())
        if self._outboxes:
            try:
                await asyncio.wait_for(self._gone.wait(), _STOP_TIMEOUT_S)
            except TimeoutError:
                _log.warning("a rank did not end within %g s", _STOP_TIMEOUT_S)

    async def serve(self, messages: AsyncIterator[FromFollower]) -> AsyncGenerator[FromLeader]:
        """One rank's stream. Raises: InvalidArgument, IllegalState if it does not belong here."""
        member = await anext(messages, None)
        if not isinstance(member, Joined):
            raise InvalidArgument("the first message of the stream must be join", field="join")
        outbox, rank = self._admit(member), member.rank
        reader = asyncio.create_task(self._read(rank, messages))
        try:
            await self._complete.wait()
            yield self._started()
            while not isinstance(message := await outbox.get(), Stopped):
                yield message
            yield message
            # The rank closes the stream when it has read that.
            await asyncio.wait({reader}, timeout=_STOP_TIMEOUT_S)
        finally:
            reader.cancel()
            self._peers.lost(rank)
            self._outboxes.pop(rank, None)
            if not self._outboxes:
                self._gone.set()

    def _admit(self, member: Joined) -> _Outbox:
        if member.size != self._size or member.rank >= self._size:
            raise InvalidArgument(
                f"rank {member.rank} of {member.size} does not belong to this group of "
                f"{self._size} ranks",
                field="join.rank",
            )
        if member.rank in self._members:
            raise IllegalState(f"rank {member.rank} has joined already")
        if _on_loopback(member) and not _on_loopback(self._own):
            raise IllegalState(
                f"rank {member.rank} listens on {member.address}, which only its own host reaches: "
                "set [engine] group_listen in mlxmesh.toml of that host to an address that the "
                "others reach, and restart its runtime; docs/groups.md has the details"
            )
        self._members[member.rank] = member
        outbox = self._outboxes[member.rank] = _Outbox()
        _log.info("rank %d joined from %s", member.rank, member.address)
        if len(self._members) == self._size:
            self._complete.set()
        return outbox

    async def _read(self, rank: int, messages: AsyncIterator[FromFollower]) -> None:
        async for message in messages:
            match message:
                case Failed(error):
                    _log.error("rank %d failed: %s", rank, error.message)
                    self._peers.fail(error)
                case Leaving():
                    self._leave()
                case Joined():
                    _log.warning("rank %d joined twice on one stream", rank)

    def _started(self) -> Started:
        members = [self._members[rank] for rank in range(self._size)]
        return Started(
            tuple(member.address for member in members),
            tuple(member.ring_address for member in members),
        )

    def _distribute(self) -> None:
        operations = [self._pending.popleft() for _ in range(len(self._pending))]
        self._tell_all(*operations)

    def _tell_all(self, *messages: Serving | Stopped | Operation) -> None:
        for outbox in self._outboxes.values():
            outbox.put(*messages)


def _on_loopback(member: Joined) -> bool:
    host, _ = split_host_port(member.address)
    return is_loopback(host)

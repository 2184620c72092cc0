"""GroupService: converts messages, calls the leadership and the peers."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from mlxmesh.engine.v1 import group_pb2 as pb
from mlxmesh.engine.v1 import group_pb2_grpc as pb_grpc
from mlxmesh_engine.groups.convert import from_follower, to_follower
from mlxmesh_engine.groups.leadership import Leadership
from mlxmesh_engine.groups.messages import FromFollower
from mlxmesh_engine.groups.peers import GroupPeers
from mlxmesh_shared.errors import IllegalState

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GroupService"].full_name


class GroupServicer(pb_grpc.GroupServiceServicer):
    """Serves the other ranks; their messages have passed the contract's rules."""

    def __init__(self, peers: GroupPeers) -> None:
        self._peers = peers
        self.leadership: Leadership | None = None
        """At rank 0."""

    async def Follow(
        self, request_iterator: AsyncIterator[pb.FollowRequest], context: object
    ) -> AsyncIterator[pb.FollowResponse]:
        if self.leadership is None:
            raise IllegalState("this is not rank 0 of a group, which others follow")
        stream = self.leadership.serve(_messages(request_iterator))
        async with aclosing(stream):
            async for message in stream:
                yield to_follower(message)

    async def Beat(
        self, request_iterator: AsyncIterator[pb.BeatRequest], context: object
    ) -> AsyncIterator[pb.BeatResponse]:
        beats = self._peers.answer(_ranks(request_iterator))
        async with aclosing(beats):
            async for _ in beats:
                yield pb.BeatResponse()


async def _messages(requests: AsyncIterator[pb.FollowRequest]) -> AsyncIterator[FromFollower]:
    async for request in requests:
        yield from_follower(request)


async def _ranks(requests: AsyncIterator[pb.BeatRequest]) -> AsyncIterator[int]:
    async for request in requests:
        yield request.rank

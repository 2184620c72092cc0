"""What the processes of all ranks of a group have in common: control server, heartbeats, end."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from mlxmesh.engine.v1 import group_pb2_grpc as pb_grpc
from mlxmesh.engine.v1.group_pb2_grpc import add_GroupServiceServicer_to_server
from mlxmesh_engine.groups.convert import beat_request
from mlxmesh_engine.groups.leadership import Leadership
from mlxmesh_engine.groups.messages import Joined, Started
from mlxmesh_engine.groups.peers import GroupPeers
from mlxmesh_engine.groups.servicer import SERVICE_NAME, GroupServicer
from mlxmesh_shared.errors import Internal, MeshError
from mlxmesh_shared.host.host_port import is_loopback, join_host_port, local_host, split_host_port
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.rpc.channels import MAX_MESSAGE_BYTES, PeerTimeouts
from mlxmesh_shared.rpc.server import ServerOptions
from mlxmesh_shared.settings import EngineSettings

GROUP_LOST_EXIT_CODE = 71
# Heartbeats notice a silent rank: pings of the connection must not do it earlier.
_TIMEOUTS = PeerTimeouts(connect_s=5.0, ping_s=60.0, ping_interval_s=60.0, idle_s=3600.0)

_log = logging.getLogger(__name__)


def end_process(announce: Callable[[dict[str, str | bool]], None], error: MeshError) -> None:
    """Ends this process at once: another thread may wait for the ring for ever."""
    _log.error(error.message)
    permanent = not error.retryable and not isinstance(error, Internal)
    with contextlib.suppress(OSError, ValueError):
        announce({"phase": "failed", "permanent": permanent, "message": error.message})
        sys.stderr.flush()
    os._exit(GROUP_LOST_EXIT_CODE)


def _free_port(host: str) -> int:
    """A port of this host that nothing listens on at present; the ring will."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return listener.getsockname()[1]


def reached_at(host: str, port: int | str, advertise_host: str) -> str:
    """Where other ranks reach a listener; one on a loopback address is reached on its host only."""
    advertised = host if is_loopback(host) else advertise_host or local_host(host)
    return join_host_port(advertised, port)


class GroupProcess:
    """The group's side of one rank's process."""

    def __init__(
        self,
        process: ServiceProcess[EngineSettings],
        announce: Callable[[dict[str, str | bool]], None],
    ) -> None:
        self.settings = process.settings
        self._process = process
        self._announce = announce
        self.peers = GroupPeers(
            self.settings.group_rank,
            self.settings.group_size,
            start_silence_s=self.settings.group_start_silence_s,
            end=self.end,
        )
        self._servicer = GroupServicer(self.peers)
        self._tasks: list[asyncio.Task[None]] = []

    def end(self, error: MeshError) -> None:
        end_process(self._announce, error)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[Joined]:
        """Listens for other ranks, and says where."""
        settings = self.settings
        server = self._process.make_server(
            settings.group_listen,
            services=[(add_GroupServiceServicer_to_server, self._servicer)],
            service_names=[SERVICE_NAME],
            options=ServerOptions(
                max_message_bytes=MAX_MESSAGE_BYTES,
                log_successes=False,
                reflection=settings.reflection,
            ),
        )
        host, port = split_host_port(await server.start())
        own = Joined(
            settings.group_rank,
            settings.group_size,
            reached_at(host, port, settings.advertise_host),
            reached_at(host, _free_port(host), settings.advertise_host),
        )
        try:
            yield own
        finally:
            for task in self._tasks:
                task.cancel()
            await server.drain(grace_s=0.1, settle_s=0)

    def lead(self, own: Joined, leave: Callable[[], None]) -> Leadership:
        """Lets others follow this rank."""
        leadership = Leadership(own, self.peers, leave)
        self._servicer.leadership = leadership
        return leadership

    def start_heartbeats(self, started: Started) -> None:
        """Exchanges heartbeats with all other ranks from now on."""
        for rank in range(self.settings.group_rank):
            self._tasks.append(asyncio.create_task(self._beat(rank, started.addresses[rank])))
        self._tasks.append(asyncio.create_task(self.peers.check()))

    def protect(self) -> None:
        """The start has ended: from now on, a rank that is lost is noticed soon."""
        from mlxmesh_engine.groups.ring import DeadMansSwitch

        silence_s = self.settings.group_silence_s
        self.peers.protect(silence_s, DeadMansSwitch(silence_s))

    def open_channel(self, address: str) -> Any:
        return self._process.open_channel(address, role="engine", timeouts=_TIMEOUTS)

    async def _beat(self, rank: int, address: str) -> None:
        channel = self.open_channel(address)
        try:
            stub: Any = pb_grpc.GroupServiceStub(channel)
            await self.peers.follow(rank, stub.Beat(self._requests()))
        finally:
            await channel.close()

    async def _requests(self) -> AsyncIterator[Any]:
        async for rank in self.peers.own_beats():
            yield beat_request(rank)

"""The process of a rank above 0: joins rank 0, loads its part, and repeats what rank 0 computes."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from mlxmesh.engine.v1 import group_pb2_grpc as pb_grpc
from mlxmesh_engine.groups.convert import from_leader, to_leader
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
from mlxmesh_engine.service.backends import import_mlx, open_part
from mlxmesh_engine.service.group_process import GroupProcess
from mlxmesh_engine.service.loop_calls import call_on, fail, succeed
from mlxmesh_engine.service.mlx_cleanup import mlx_released
from mlxmesh_shared.errors import EngineFailed, Internal, MeshError
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.process.startup import wait_for_stop
from mlxmesh_shared.rpc.channels import wait_ready
from mlxmesh_shared.settings import EngineSettings

if TYPE_CHECKING:
    from mlxmesh_engine.groups.follower import Follower

_JOIN_TIMEOUT_S = 60.0
# Rank 0 reads a failure before the connection ends.
_FAILURE_S = 0.2

_log = logging.getLogger(__name__)


class FollowerThread:
    """The only thread that uses MLX: loads this rank's part, then carries operations out."""

    def __init__(self, load: "Callable[[], Follower]") -> None:
        self._load = load
        self._operations: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._event_loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)
        self.loaded: asyncio.Future[None] = self._event_loop.create_future()
        self.dead: asyncio.Future[None] = self._event_loop.create_future()
        """Fails with the error that ended the thread."""

    def start(self) -> None:
        self._thread.start()

    def put(self, operation: Operation) -> None:
        self._operations.put(operation)

    async def stop(self) -> None:
        """Ends the thread after what was put."""
        self._operations.put(None)
        await asyncio.to_thread(self._thread.join)

    @mlx_released()
    def _run(self) -> None:
        try:
            follower = self._load()
            call_on(self._event_loop, succeed, self.loaded, None)
            while (operation := self._operations.get()) is not None:
                follower.apply(operation)
        except BaseException as error:  # noqa: BLE001 - the group ends with it
            call_on(self._event_loop, fail, self.dead, error)


async def follow(
    process: ServiceProcess[EngineSettings], announce: Callable[[dict[str, str | bool]], None]
) -> None:
    """Follows rank 0 until that stops. Raises: MeshError when this rank cannot join."""
    import_mlx()
    group = GroupProcess(process, announce)
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(group.serving())
        channel = group.open_channel(process.settings.group_leader)
        stack.push_async_callback(channel.close)
        await wait_ready(channel, _JOIN_TIMEOUT_S)
        _log.info("joins the group", extra={"fields": {"leader": process.settings.group_leader}})
        await _Following(group, own, announce).run(channel)


class _Following:
    """The stream to rank 0, from the join to the stop."""

    def __init__(
        self,
        group: GroupProcess,
        own: Joined,
        announce: Callable[[dict[str, str | bool]], None],
    ) -> None:
        self._group = group
        self._own = own
        self._announce = announce
        self._outgoing: asyncio.Queue[FromFollower | None] = asyncio.Queue()
        self._thread: FollowerThread | None = None

    async def run(self, channel: Any) -> None:
        """Raises: MeshError if rank 0 refuses this rank; afterwards errors end the process."""
        stub: Any = pb_grpc.GroupServiceStub(channel)
        self._outgoing.put_nowait(self._own)
        tasks = [asyncio.create_task(self._leave_on_stop())]
        try:
            async for message in stub.Follow(self._requests()):
                if not self._handle(from_leader(message), tasks):
                    await self._stop()
                    return
            self._group.peers.lost(0)
        except MeshError:
            if self._thread is None:
                raise
            self._group.peers.lost(0)
        finally:
            for task in tasks:
                task.cancel()
        await asyncio.Event().wait()  # until the heartbeats end the process

    def _handle(self, message: FromLeader, tasks: list[asyncio.Task[None]]) -> bool:
        """False after the last message."""
        if isinstance(message, Started):
            self._group.start_heartbeats(message)
            self._thread = FollowerThread(open_part(self._group.settings, message))
            self._thread.start()
            tasks.append(asyncio.create_task(self._watch_thread(self._thread)))
        elif isinstance(message, Serving):
            self._group.protect()
        elif isinstance(message, Stopped):
            return False
        elif self._thread is not None:
            for operation in message:
                self._thread.put(operation)
        return True

    async def _stop(self) -> None:
        """Ends in order: nothing that was put waits for a rank that is gone."""
        self._group.peers.stop()
        self._announce({"phase": "draining"})
        if self._thread is not None:
            await self._thread.stop()
        self._outgoing.put_nowait(None)

    async def _watch_thread(self, thread: FollowerThread) -> None:
        await asyncio.wait({thread.loaded, thread.dead}, return_when=asyncio.FIRST_COMPLETED)
        if thread.loaded.done():
            self._announce({"phase": "following"})
            await asyncio.wait({thread.dead})
        error = _described(thread.dead.exception())
        self._outgoing.put_nowait(Failed(error))
        await asyncio.sleep(_FAILURE_S)
        self._group.peers.fail(error)

    async def _leave_on_stop(self) -> None:
        await wait_for_stop()
        _log.info("was asked to stop: rank 0 drains first")
        self._outgoing.put_nowait(Leaving())

    async def _requests(self) -> AsyncIterator[Any]:
        while (message := await self._outgoing.get()) is not None:
            yield to_leader(message)


def _described(error: BaseException | None) -> MeshError:
    if isinstance(error, MeshError):
        return error
    if isinstance(error, Exception):
        _log.error("the MLX thread died", exc_info=error)
        return EngineFailed(f"a rank's computation failed: {type(error).__name__}; see its log")
    return Internal("the MLX thread ended")

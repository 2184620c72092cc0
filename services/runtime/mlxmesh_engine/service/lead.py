"""Rank 0 of a group, beside what every engine does: others join it, follow it, and end with it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable

from mlxmesh_engine.groups.leadership import Leadership
from mlxmesh_engine.service.backends import GroupLead, import_mlx
from mlxmesh_engine.service.group_process import GroupProcess
from mlxmesh_engine.service.loop_calls import call_on
from mlxmesh_shared.errors import EngineFailed
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.settings import EngineSettings

_log = logging.getLogger(__name__)


class Lead:
    """All ranks have joined; `lead` is for the backend."""

    def __init__(
        self,
        group: GroupProcess,
        leadership: Leadership,
        lead: GroupLead,
        on_leave: list[Callable[[], None]],
    ) -> None:
        self._group = group
        self._leadership = leadership
        self.lead = lead
        self._on_leave = on_leave

    def begin_serving(self, leave: Callable[[], None]) -> None:
        """Ends the start, for all ranks. leave: begins the drain of this engine."""
        self._leadership.begin_serving()
        self._group.protect()
        self._on_leave.append(leave)


@contextlib.asynccontextmanager
async def leading(
    process: ServiceProcess[EngineSettings], announce: Callable[[dict[str, str | bool]], None]
) -> AsyncGenerator[Lead]:
    """Waits until all ranks have joined; at the end they stop in order."""
    loop = asyncio.get_running_loop()
    group = GroupProcess(process, announce)
    on_leave: list[Callable[[], None]] = []

    def leave() -> None:
        if on_leave:
            on_leave[0]()
        else:
            group.end(EngineFailed("a rank was asked to stop before the group was complete"))

    def failed(error: BaseException) -> None:
        _log.error("an operation of the group failed", exc_info=error)
        message = f"a computation of the group failed: {type(error).__name__}; see the log"
        call_on(loop, group.peers.fail, EngineFailed(message))

    async with group.serving() as own:
        leadership: Leadership = group.lead(own, leave)
        announce({"phase": "joining", "group_address": own.address})
        # The others do the same meanwhile.
        import_mlx()
        started = await leadership.wait_complete()
        group.start_heartbeats(started)
        try:
            lead = GroupLead(started, leadership.send, failed)
            yield Lead(group, leadership, lead, on_leave)
        finally:
            await leadership.stop()

"""One run of an engine: one process, registered and probed while it serves.

`Supervisor` starts one run after another; `EngineProcess` is the process of a run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mlxmesh_runtime.engine_command import EngineCommand
from mlxmesh_runtime.engine_process import EngineProcess, StartFailure
from mlxmesh_runtime.engine_record import (
    NO_LOAD,
    EngineFailure,
    EngineLoad,
    EngineSpec,
    FailureReason,
    RankRecord,
)
from mlxmesh_runtime.files.engine_files import EngineFiles, FilesInPlace
from mlxmesh_runtime.group_ranks import GroupRanks, Runtimes
from mlxmesh_runtime.heartbeat import EngineProbe, GrpcEngineProbe, HeartbeatLimits, wait_until_hung
from mlxmesh_runtime.spare_engine import SpareEngine
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.host.log_file import LogFile
from mlxmesh_shared.registry import Instance, Registry, local_instance
from mlxmesh_shared.settings import MeshSettings

START_MARK = "--- the runtime starts the engine process ---"
MAX_LOG_LINE_CHARACTERS = 300
LOG_CHECK_INTERVAL_S = 10.0

T = TypeVar("T")


class EngineDown(Exception):
    """The engine does not run any more, or could not start."""

    def __init__(self, failure: EngineFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, kw_only=True)
class EngineHost:
    """What all engines of a runtime have in common."""

    runtime_id: str
    mesh: MeshSettings
    registry: Registry
    command: EngineCommand
    logs_dir: Path
    heartbeat: HeartbeatLimits
    start_timeout_s: float
    stop_grace_s: float
    spare: SpareEngine
    runtimes: Runtimes | None = None
    """Where the other ranks of a group can run; None: there are no groups."""
    files: EngineFiles = field(default_factory=FilesInPlace)
    runtime_address: Callable[[], str] = lambda: ""
    """Where the runtime listens."""
    open_probe: Callable[[str], EngineProbe] = GrpcEngineProbe

    def log_of(self, engine_id: str) -> LogFile:
        """The log file of an engine."""
        return LogFile(
            self.logs_dir / f"{engine_id}.log",
            max_bytes=self.mesh.log_file_bytes,
            max_files=self.mesh.log_files,
        )


class EngineRun:
    """Call `locate_files`, `spawn`, `wait_until_ready`, `wait_for_drain` in this order, `stop` at
    any time.
    """

    def __init__(self, spec: EngineSpec, host: EngineHost) -> None:
        self._spec = spec
        self._host = host
        self.load = NO_LOAD
        self._log = host.log_of(spec.engine_id)
        self._process: EngineProcess | None = None
        self._probe: EngineProbe | None = None
        self._instance: Instance | None = None
        self._registering: asyncio.Task[None] | None = None
        self._ranks = GroupRanks(spec, host.runtimes, silence_s=host.start_timeout_s)

    @property
    def ranks(self) -> tuple[RankRecord, ...]:
        """The other ranks of its group."""
        return self._ranks.records

    async def locate_files(self) -> None:
        """Bring the files of the model to this host if they are not here. Raises: EngineDown."""
        try:
            self._spec = await self._host.files.located(self._spec)
        except MeshError as error:
            known = error.reason in list(FailureReason)
            reason = FailureReason(error.reason) if known else FailureReason.FETCH_FAILED
            raise EngineDown(EngineFailure(reason, error.message)) from error

    async def spawn(self) -> int:
        """Start the process and return its id. Raises: EngineDown."""
        try:
            self._log.rotate_if_large()
            self._log.append(START_MARK)
            self._process = await EngineProcess.spawn(
                self._host.command.line(self._spec, runtime_address=self._host.runtime_address()),
                self._log,
                self._host.spare,
            )
        except OSError as error:
            raise _start_failed(f"its process cannot be started: {error.strerror}") from error
        return self._process.pid

    async def wait_until_ready(self) -> str:
        """Wait until the engine is registered; return its address. Raises: EngineDown."""
        self._ranks.start(self._process_group_address())
        # The other ranks' hosts may have to fetch the files, which has limits of its own.
        await _first_of(
            self._raise_at_exit(FailureReason.START_FAILED),
            self._ranks.wait_placed(),
            self._raise_if_rank_lost(FailureReason.START_FAILED),
        )
        try:
            async with asyncio.timeout(self._host.start_timeout_s):
                return await _first_of(
                    self._raise_at_exit(FailureReason.START_FAILED),
                    self._register(),
                    self._raise_if_rank_lost(FailureReason.START_FAILED),
                )
        except TimeoutError:
            raise _start_failed(
                f"it was not ready within {self._host.start_timeout_s:g} s and was killed"
            ) from None

    async def wait_for_drain(self) -> None:
        """Watch the engine until it drains because another process asked it to.

        Raises: EngineDown if it ended or counts as hung.
        """
        await _first_of(
            self._running.wait_for_drain(),
            self._raise_at_exit(FailureReason.CRASHED),
            self._raise_if_rank_lost(FailureReason.CRASHED),
            self._raise_if_hung(),
            self._rotate_log(),
        )

    async def deregister(self) -> None:
        """Remove the engine from the registry if it is registered."""
        if self._registering is None or self._instance is None:
            return
        await asyncio.gather(self._registering, return_exceptions=True)
        await self._host.registry.deregister(self._instance)
        self._registering = None

    async def stop(self, grace_s: float) -> None:
        """Drain the process, kill it after the grace; returns once it ended."""
        if self._process is not None:
            await self._process.stop(grace_s)
        await self._ranks.close()
        if self._probe is not None:
            await self._probe.close()

    async def _register(self) -> str:
        address = await self._running.wait_for_address()
        self._probe = self._host.open_probe(address)
        health = await self._probe.check(self._host.start_timeout_s)
        self._keep_load(health.load)
        self._instance = local_instance(
            self._host.mesh,
            "engine",
            self._spec.engine_id,
            address,
            pid=self._running.pid,
            model=self._spec.model,
            version=str(self._spec.model_version),
            device=health.device,
            runtime=self._host.runtime_id,
        )
        self._registering = asyncio.create_task(self._host.registry.register(self._instance))
        await asyncio.shield(self._registering)
        return address

    async def _raise_at_exit(self, reason: FailureReason) -> NoReturn:
        how = await self._running.wait_for_exit()
        reported = await self._running.start_failure()
        if reported is not None and reason is FailureReason.CRASHED:
            raise EngineDown(EngineFailure(reason, reported.message))
        if reason is FailureReason.START_FAILED:
            if reported is not None:
                raise EngineDown(_failure_of(reported))
            # Before it serves, an engine has seen no prompt: its last log line may be shown.
            how += self._last_log_line()
        raise EngineDown(EngineFailure(reason, f"the engine process {how}"))

    def _last_log_line(self) -> str:
        [line] = self._log.tail(1) or [START_MARK]
        return "" if line == START_MARK else f": {line[:MAX_LOG_LINE_CHARACTERS]}"

    async def _process_group_address(self) -> str:
        return await self._running.wait_for_group_address()

    async def _raise_if_rank_lost(self, reason: FailureReason) -> NoReturn:
        error = await self._ranks.wait_lost()
        # Rank 0 ends as well, and may know more.
        raise EngineDown(EngineFailure(reason, error.message))

    async def _raise_if_hung(self) -> NoReturn:
        assert self._probe is not None, "register first"
        raise EngineDown(await wait_until_hung(self._probe, self._host.heartbeat, self._keep_load))

    def _keep_load(self, load: EngineLoad) -> None:
        self.load = load

    async def _rotate_log(self) -> NoReturn:
        while True:
            await asyncio.sleep(LOG_CHECK_INTERVAL_S)
            with contextlib.suppress(OSError):  # a full disk must not end an engine
                self._log.rotate_if_large()

    @property
    def _running(self) -> EngineProcess:
        assert self._process is not None, "spawn first"
        return self._process


def _failure_of(reported: StartFailure) -> EngineFailure:
    reason = FailureReason.REFUSED if reported.permanent else FailureReason.START_FAILED
    return EngineFailure(reason, reported.message)


def _start_failed(message: str) -> EngineDown:
    return EngineDown(EngineFailure(FailureReason.START_FAILED, message))


async def _first_of(*coroutines: Coroutine[Any, Any, T]) -> T:
    """The result or error of the first coroutine that finishes; of several, the first one given."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

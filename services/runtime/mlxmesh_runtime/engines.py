"""All engines of this host: admits, starts, finds, watches and stops them by id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

from mlxmesh_runtime.change_feed import Change, ChangeFeed
from mlxmesh_runtime.convert import engine_event_to
from mlxmesh_runtime.device import needed_bytes, resident_bytes
from mlxmesh_runtime.engine_command import RankPlace
from mlxmesh_runtime.engine_record import NO_LOAD, EngineLoad, EngineRecord, EngineSpec, ModelFiles
from mlxmesh_runtime.engine_run import EngineHost
from mlxmesh_runtime.files.file_fetch import Progress
from mlxmesh_runtime.hosted_ranks import HostedRanks
from mlxmesh_runtime.lifecycle import EngineState
from mlxmesh_runtime.memory_guard import (
    EngineMemory,
    Memory,
    MemoryLimits,
    check_fits,
)
from mlxmesh_runtime.rank_state import RankState
from mlxmesh_runtime.supervisor import RestartLimits, Supervisor
from mlxmesh_shared.errors import (
    Draining,
    EngineDraining,
    EngineExists,
    EngineNotFound,
    InvalidArgument,
)
from mlxmesh_shared.events import Publish, discard_event


class Engines:
    """One supervisor for each engine id; publishes every change of a record."""

    def __init__(
        self,
        *,
        host: EngineHost,
        limits: RestartLimits,
        free_memory: Callable[[], Awaitable[Memory]],
        memory_limits: MemoryLimits,
        resident_bytes: Callable[[int], int] = resident_bytes,
        publish: Publish = discard_event,
    ) -> None:
        self._host = host
        self._limits = limits
        self._free_memory = free_memory
        self._memory_limits = memory_limits
        self._resident_bytes = resident_bytes
        self._publish = publish
        self._supervisors: dict[str, Supervisor] = {}
        self._needed_bytes: dict[str, int] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._hosted = HostedRanks(host, resident_bytes)
        self._feed = ChangeFeed()
        self._empty = asyncio.Event()
        self._empty.set()
        self._closing = False

    async def start(self, spec: EngineSpec) -> EngineRecord:
        """Start an engine; a running one is left alone, a FAILED one is replaced.

        Raises: EngineExists, EngineDraining, InvalidArgument, InsufficientMemory, DiskFull,
        Draining.
        """
        memory = await self._free_memory()
        # No await from here on: of two starts of one id, the second must find the first engine.
        if self._closing:
            raise Draining("the runtime is shutting down; start the engine on another runtime")
        present = self._supervisors.get(spec.engine_id)
        if present is not None and not self._may_replace(present.record, spec):
            return present.record
        self._check_files(spec.model_dir, "model_dir", spec.files)
        if spec.options.draft_dir is not None:
            self._check_files(spec.options.draft_dir, "options.draft_model_dir", spec.draft_files)
        self._needed_bytes[spec.engine_id] = self._check_memory(spec, memory)
        supervisor = Supervisor(
            spec=spec, host=self._host, limits=self._limits, publish=self._on_change
        )
        self._supervisors[spec.engine_id] = supervisor
        self._empty.clear()
        supervisor.start()
        return supervisor.record

    async def host_rank(self, spec: EngineSpec, place: RankPlace) -> AsyncIterator[RankState]:
        """Run a rank of another engine's group while the iteration lasts; gives its state.

        Raises: InvalidArgument, InsufficientMemory, DiskFull, FetchFailed, ModelFilesDamaged,
        Draining, EngineLost, ModelRefused.
        """
        memory = await self._free_memory()
        if self._closing:
            raise Draining("the runtime is shutting down; use another runtime")
        self._check_files(spec.model_dir, "engine.model_dir", spec.files)
        needed = self._check_memory(spec, memory, place.share_ppm)
        async with aclosing(self._hosted.run(spec, place, needed)) as states:
            async for state in states:
                yield state

    async def stop(self, engine_id: str, grace_s: float) -> None:
        """Drain an engine, kill it after the grace, and remove it, even if the caller goes away.

        Raises: EngineNotFound.
        """
        stopping = asyncio.create_task(self._stop_and_remove(self._supervisor(engine_id), grace_s))
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)
        await asyncio.shield(stopping)

    def get(self, engine_id: str) -> EngineRecord:
        """The current record of an engine. Raises: EngineNotFound."""
        return self._supervisor(engine_id).record

    def load(self, engine_id: str) -> EngineLoad:
        """The load of an engine as of its last heartbeat; none if the engine is gone."""
        supervisor = self._supervisors.get(engine_id)
        return supervisor.load if supervisor is not None else NO_LOAD

    def fetch(self, engine_id: str) -> Progress | None:
        """How far the fetch of an engine's files is; None if none runs."""
        supervisor = self._supervisors.get(engine_id)
        return supervisor.fetch if supervisor is not None else None

    @property
    def digests(self) -> frozenset[str]:
        """Of the files that the engines and ranks of this host have."""
        specs = [supervisor.record.spec for supervisor in self._supervisors.values()]
        specs += self._hosted.specs
        files = [each for spec in specs for each in (spec.files, spec.draft_files)]
        return frozenset(each.digest for each in files if each is not None)

    def memory(self) -> EngineMemory:
        """The memory of all engines; one that is to be restarted keeps what it needs."""
        records = [
            supervisor.record
            for supervisor in self._supervisors.values()
            if supervisor.record.state is not EngineState.FAILED
        ]
        resident = [self._resident_bytes(record.pid) for record in records]
        needed = [self._needed_bytes[record.spec.engine_id] for record in records]
        hosted = self._hosted.memory()
        return EngineMemory(
            resident_bytes=sum(resident) + sum(has for has, _ in hosted),
            committed_bytes=sum(map(max, resident, needed)) + sum(map(max, hosted)),
            loading_bytes=sum(
                max(0, need - has)
                for record, need, has in zip(records, needed, resident, strict=True)
                if record.state in (EngineState.STARTING, EngineState.BACKOFF)
            ),
        )

    def announce_shortage(self, shortage_bytes: int) -> None:
        """Tell every watcher that memory is short, or with 0 that it no longer is."""
        self._feed.announce_shortage(shortage_bytes)

    def log_tail(self, engine_id: str) -> tuple[str, ...]:
        """The last lines of an engine's log, across all its runs."""
        return self._host.log_of(engine_id).tail()

    def page(self, *, after_id: str, limit: int) -> list[EngineRecord]:
        """At most `limit` engines with ids above `after_id`, ordered by id."""
        ids = sorted(engine_id for engine_id in self._supervisors if engine_id > after_id)
        return [self._supervisors[engine_id].record for engine_id in ids[:limit]]

    def watch(self) -> AsyncIterator[Change]:
        """Every engine's current record, then each change."""
        return self._feed.watch()

    async def wait_until_empty(self) -> None:
        """Return once no engine is left, in any state."""
        await self._empty.wait()

    def refuse_starts(self) -> None:
        """Refuse every further start."""
        self._closing = True

    async def close(self, grace_s: float) -> None:
        """Stop every engine and refuse every further start."""
        self.refuse_starts()
        supervisors = tuple(self._supervisors.values())
        await asyncio.gather(
            *(self._stop_and_remove(each, grace_s) for each in supervisors),
            self._hosted.close(grace_s),
        )

    def _on_change(self, record: EngineRecord) -> None:
        engine_id = record.spec.engine_id
        event = engine_event_to(self._feed.latest(engine_id), record)
        self._feed.publish(record)
        if event is not None:
            self._publish(event, engine_id)

    def _supervisor(self, engine_id: str) -> Supervisor:
        supervisor = self._supervisors.get(engine_id)
        if supervisor is None:
            raise EngineNotFound(f"no engine {engine_id} on this host", field="engine_id")
        return supervisor

    async def _stop_and_remove(self, supervisor: Supervisor, grace_s: float) -> None:
        await supervisor.stop(grace_s)
        engine_id = supervisor.record.spec.engine_id
        if self._supervisors.get(engine_id) is supervisor:
            del self._supervisors[engine_id], self._needed_bytes[engine_id]
        if not self._supervisors:
            self._empty.set()

    @staticmethod
    def _may_replace(present: EngineRecord, wanted: EngineSpec) -> bool:
        """Whether a start replaces the present engine; False if that one keeps running."""
        if present.state is EngineState.DRAINING:
            raise EngineDraining(f"engine {wanted.engine_id} is stopping; start it again later")
        if not present.spec.same_model(wanted):
            raise EngineExists(
                f"engine {wanted.engine_id} serves {present.spec.model}@"
                f"{present.spec.model_version} from {present.spec.model_dir}; stop it first, or "
                "choose another id",
                field="engine_id",
            )
        return present.state is EngineState.FAILED

    def _check_files(self, model_dir: Path, field: str, files: ModelFiles | None) -> None:
        """Raises: InvalidArgument, DiskFull."""
        problem = ""
        if not model_dir.is_absolute():
            problem = "must be an absolute path"
        elif files is not None:
            self._host.files.check(files, model_dir)
        elif not model_dir.is_dir():
            problem = "is not a directory on the runtime's host"
        elif not (model_dir / "config.json").is_file():
            problem = "has no config.json, so it is not a model"
        if problem:
            raise InvalidArgument(f"{field} {problem}: {model_dir}", field=field)

    def _check_memory(self, spec: EngineSpec, memory: Memory, share_ppm: int = 0) -> int:
        """What the engine will at least need. Raises: InsufficientMemory."""
        needed = needed_bytes(spec, share_ppm)
        check_fits(
            needed_bytes=needed,
            memory=memory,
            engines=self.memory(),
            limits=self._memory_limits,
        )
        return needed

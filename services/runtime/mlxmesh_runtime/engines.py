"""The event that a change of an engine's record is. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypedDict

from google.protobuf.message import Message

from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_runtime.change_feed import Change, ChangeFeed
from mlxmesh_runtime.convert import failure_to
from mlxmesh_runtime.device import Memory, check_fits, needed_bytes
from mlxmesh_runtime.engine_record import EngineRecord, EngineSpec
from mlxmesh_runtime.engine_run import EngineHost
from mlxmesh_runtime.lifecycle import EngineState
from mlxmesh_runtime.supervisor import RestartLimits, Supervisor
from mlxmesh_shared.errors import (
    Draining,
    EngineDraining,
    EngineExists,
    EngineNotFound,
    InvalidArgument,
)
from mlxmesh_shared.events import Publish, discard_event


class _What(TypedDict):
    engine_id: str
    model: str
    model_version: int


def engine_event(before: EngineRecord | None, after: EngineRecord) -> Message | None:
    """What to tell of a change; None when it is nothing new to others."""
    moved = before is None or before.state is not after.state
    had_process = before is not None and before.pid != 0
    spec, failure = after.spec, after.last_failure
    what: _What = {
        "engine_id": spec.engine_id,
        "model": spec.model,
        "model_version": spec.model_version,
    }
    why = failure_to(failure) if failure is not None else None
    match after.state:
        case EngineState.STARTING if after.pid and not had_process:
            return events.EngineStarted(**what, pid=after.pid, restarts=after.restarts)
        case EngineState.READY if moved:
            return events.EngineReady(**what, address=after.address, restarts=after.restarts)
        case EngineState.BACKOFF if moved:
            return events.EngineCrashed(**what, failure=why, restarts=after.restarts)
        case EngineState.FAILED if moved:
            return events.EngineFailed(**what, failure=why)
        case EngineState.DRAINING if had_process and not after.pid:
            return events.EngineDrained(**what)
        case EngineState.STOPPED:
            return events.EngineStopped(**what)
        case _:
            return None


class Engines:
    """Starts, stops and finds engines by id."""

    def __init__(
        self,
        *,
        host: EngineHost,
        limits: RestartLimits,
        free_memory: Callable[[], Awaitable[Memory]],
        memory_fraction: float,
        publish: Publish = discard_event,
    ) -> None:
        self._host = host
        self._limits = limits
        self._free_memory = free_memory
        self._memory_fraction = memory_fraction
        self._publish = publish
        self._supervisors: dict[str, Supervisor] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._feed = ChangeFeed()
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._closing = False

    async def start(self, spec: EngineSpec) -> EngineRecord:
        """Start an engine; one that is there already is left alone, one that FAILED starts anew.

        Raises: EngineExists, EngineDraining, InvalidArgument, InsufficientMemory, Draining.
        """
        memory = await self._free_memory()
        # No await from here on: of two starts of one id, the second must find the first one's.
        if self._closing:
            raise Draining("the runtime is shutting down; start the engine on another one")
        present = self._supervisors.get(spec.engine_id)
        if present is not None and not self._may_replace(present.record, spec):
            return present.record
        self._check_model_dir(spec)
        self._check_memory(spec, memory)
        supervisor = Supervisor(
            spec=spec, host=self._host, limits=self._limits, publish=self._on_change
        )
        self._supervisors[spec.engine_id] = supervisor
        self._none_left.clear()
        supervisor.start()
        return supervisor.record

    async def stop(self, engine_id: str, grace_s: float) -> None:
        """Drain, stop, in the end kill, and forget an engine; goes on if its caller goes away.

        Raises: EngineNotFound.
        """
        stopping = asyncio.create_task(self._stop_and_forget(self._supervisor(engine_id), grace_s))
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)
        await asyncio.shield(stopping)

    def get(self, engine_id: str) -> EngineRecord:
        """One engine as it is. Raises: EngineNotFound."""
        return self._supervisor(engine_id).record

    def log_tail(self, engine_id: str) -> tuple[str, ...]:
        """The last lines that an engine logged, over all its runs."""
        return self._host.log_of(engine_id).tail()

    def page(self, *, after_id: str, limit: int) -> list[EngineRecord]:
        """Engines in the order of their ids, at most `limit` of those behind `after_id`."""
        ids = sorted(engine_id for engine_id in self._supervisors if engine_id > after_id)
        return [self._supervisors[engine_id].record for engine_id in ids[:limit]]

    def watch(self) -> AsyncIterator[Change]:
        """Every engine as it is, then each change."""
        return self._feed.watch()

    async def none_left(self) -> None:
        """Return once there is no engine, in whatever state."""
        await self._none_left.wait()

    def refuse_new(self) -> None:
        """Start no engine any more."""
        self._closing = True

    async def close(self, grace_s: float) -> None:
        """Stop every engine and start none any more."""
        self.refuse_new()
        supervisors = tuple(self._supervisors.values())
        await asyncio.gather(*(self._stop_and_forget(each, grace_s) for each in supervisors))

    def _on_change(self, record: EngineRecord) -> None:
        engine_id = record.spec.engine_id
        event = engine_event(self._feed.latest(engine_id), record)
        self._feed.publish(record)
        if event is not None:
            self._publish(event, engine_id)

    def _supervisor(self, engine_id: str) -> Supervisor:
        supervisor = self._supervisors.get(engine_id)
        if supervisor is None:
            raise EngineNotFound(f"no engine {engine_id} on this host", field="engine_id")
        return supervisor

    async def _stop_and_forget(self, supervisor: Supervisor, grace_s: float) -> None:
        await supervisor.stop(grace_s)
        engine_id = supervisor.record.spec.engine_id
        if self._supervisors.get(engine_id) is supervisor:
            del self._supervisors[engine_id]
        if not self._supervisors:
            self._none_left.set()

    @staticmethod
    def _may_replace(present: EngineRecord, wanted: EngineSpec) -> bool:
        """Whether a start makes a new engine of the present one; False leaves that as it is."""
        if present.state is EngineState.DRAINING:
            raise EngineDraining(f"engine {wanted.engine_id} is being stopped; start it afterwards")
        if not present.spec.same_model(wanted):
            raise EngineExists(
                f"engine {wanted.engine_id} serves {present.spec.model}@"
                f"{present.spec.model_version} from {present.spec.model_dir}; stop it first, or "
                "choose another id",
                field="engine_id",
            )
        return present.state is EngineState.FAILED

    @staticmethod
    def _check_model_dir(spec: EngineSpec) -> None:
        problem = ""
        if not spec.model_dir.is_absolute():
            problem = "must be an absolute path"
        elif not spec.model_dir.is_dir():
            problem = "is not a directory on the runtime's host"
        elif not (spec.model_dir / "config.json").is_file():
            problem = "holds no config.json, so it is not a model"
        if problem:
            raise InvalidArgument(f"model_dir {problem}: {spec.model_dir}", field="model_dir")

    def _check_memory(self, spec: EngineSpec, memory: Memory) -> None:
        loading = [
            supervisor.record.spec
            for supervisor in self._supervisors.values()
            if supervisor.record.state in (EngineState.STARTING, EngineState.BACKOFF)
        ]
        check_fits(
            needed_bytes=needed_bytes(spec.model_dir),
            reserved_bytes=sum(needed_bytes(other.model_dir) for other in loading),
            memory=memory,
            memory_fraction=self._memory_fraction,
        )

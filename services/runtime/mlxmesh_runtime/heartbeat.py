"""Detects hung engines: without an answer, or without a step for too long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh_runtime.convert import HEALTH_REQUEST, health_from
from mlxmesh_runtime.engine_record import EngineFailure, EngineHealth, EngineLoad, FailureReason
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import WATCH_TIMEOUTS, OpenChannel, open_channel

MIN_MISSED_HEARTBEATS = 3


@dataclass(frozen=True, kw_only=True)
class HeartbeatLimits:
    """How often an engine is probed, and when it counts as hung."""

    interval_s: float
    timeout_s: float  # of one probe
    liveness_timeout_s: float  # without an answer: the process is frozen
    step_stall_timeout_s: float  # with answers, but without a step: a step hangs

    @property
    def idle_interval_s(self) -> float:
        """The interval while an engine has no sequences; a missed answer ends it."""
        return max(self.interval_s, self.liveness_timeout_s / 2)


class EngineProbe(Protocol):
    """Checks the health of a running engine."""

    async def check(self, timeout_s: float) -> EngineHealth:
        """Raises: MeshError if the engine does not answer in time."""
        ...

    async def close(self) -> None:
        """Release the connection."""
        ...


class GrpcEngineProbe:
    """Checks the engine at an address with its EngineService."""

    def __init__(self, address: str, open_: OpenChannel = open_channel) -> None:
        # A check has a timeout of its own, and pings would wake an idle engine each second.
        self._channel = open_(address, role="engine", timeouts=WATCH_TIMEOUTS)
        self._stub = EngineServiceStub(self._channel)

    async def check(self, timeout_s: float) -> EngineHealth:
        """Raises: MeshError."""
        return health_from(await self._stub.GetEngineInfo(HEALTH_REQUEST, timeout=timeout_s))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def _ignore(load: EngineLoad) -> None:
    pass


async def wait_until_hung(
    probe: EngineProbe,
    limits: HeartbeatLimits,
    on_load: Callable[[EngineLoad], None] = _ignore,
) -> EngineFailure:
    """Probe at intervals; return the reason once the engine counts as hung.

    `on_load` is called with the load of each answer.
    """
    last_answer_s = time.monotonic()
    missed, interval_s = 0, limits.interval_s
    while True:
        await asyncio.sleep(interval_s)
        try:
            health = await probe.check(limits.timeout_s)
        except MeshError:
            missed, interval_s = missed + 1, limits.interval_s
            silent_s = time.monotonic() - last_answer_s
            # Both limits must be exceeded: this process itself may have been paused.
            if silent_s > limits.liveness_timeout_s and missed >= MIN_MISSED_HEARTBEATS:
                return _stuck(f"it has not answered for {silent_s:.1f} s")
            continue
        last_answer_s, missed = time.monotonic(), 0
        on_load(health.load)
        interval_s = limits.interval_s if health.busy else limits.idle_interval_s
        if health.time_since_progress_s > limits.step_stall_timeout_s:
            return _stuck(f"it has run no step for {health.time_since_progress_s:.1f} s")


def _stuck(what: str) -> EngineFailure:
    return EngineFailure(FailureReason.STALLED, f"{what}; it was killed")

"""Tells a hung engine from one that is merely busy."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Protocol

from mlxmesh.engine.v1 import engine_pb2, engine_pb2_grpc
from mlxmesh_runtime.engine_record import EngineFailure, FailureReason
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import OpenChannel, open_channel

MIN_MISSED_BEATS = 3


@dataclass(frozen=True, kw_only=True)
class HeartbeatLimits:
    """How often an engine is asked how it is, and what counts as hung."""

    interval_s: float
    timeout_s: float  # of one question
    liveness_timeout_s: float  # without any answer: the process is frozen
    step_stall_timeout_s: float  # answering, but its loop has not turned: a step hangs


class EngineProbe(Protocol):
    """Asks a running engine how it is."""

    async def info(self, timeout_s: float) -> engine_pb2.GetEngineInfoResponse:
        """Its facts. Raises: MeshError when it does not answer in time."""
        ...

    async def close(self) -> None:
        """Free what the probe holds."""
        ...


class GrpcEngineProbe:
    """Asks an engine at an address through its EngineService."""

    def __init__(self, address: str, open_: OpenChannel = open_channel) -> None:
        self._channel = open_(address, role="engine")
        self._stub = engine_pb2_grpc.EngineServiceStub(self._channel)

    async def info(self, timeout_s: float) -> engine_pb2.GetEngineInfoResponse:
        """Its facts. Raises: MeshError."""
        return await self._stub.GetEngineInfo(engine_pb2.GetEngineInfoRequest(), timeout=timeout_s)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


async def until_hung(probe: EngineProbe, limits: HeartbeatLimits) -> EngineFailure:
    """Ask again and again; return, with the reason, once the engine counts as hung."""
    last_answer_s = time.monotonic()
    missed = 0
    while True:
        await asyncio.sleep(limits.interval_s)
        try:
            loop_age_s = (await probe.info(limits.timeout_s)).time_since_progress_ms / 1000
        except MeshError:
            missed += 1
            silent_s = time.monotonic() - last_answer_s
            # Counted as well as timed: this process may have been the one that was paused.
            if silent_s > limits.liveness_timeout_s and missed >= MIN_MISSED_BEATS:
                return _stuck(f"it has not answered for {silent_s:.1f} s")
            continue
        last_answer_s, missed = time.monotonic(), 0
        if loop_age_s > limits.step_stall_timeout_s:
            return _stuck(f"its loop has not turned for {loop_age_s:.1f} s")


def _stuck(what: str) -> EngineFailure:
    return EngineFailure(FailureReason.STALLED, f"{what}; it was killed")

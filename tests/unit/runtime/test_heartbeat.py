import asyncio
import time
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from mlxmesh_runtime.engine_record import EngineFailure, EngineHealth, EngineLoad
from mlxmesh_runtime.heartbeat import HeartbeatLimits, wait_until_hung
from mlxmesh_shared.errors import ServiceUnavailable

LIMITS = HeartbeatLimits(
    interval_s=0.001, timeout_s=1, liveness_timeout_s=0.0001, step_stall_timeout_s=5
)
LOST = None


class ScriptedProbe:
    """Answers with these loop ages in milliseconds (LOST: no answer), then as a hung engine."""

    def __init__(self, *loop_ages_ms: int | None) -> None:
        self._script: Iterator[int | None] = chain(loop_ages_ms, repeat(99_000))
        self.checks = 0
        self.idle_at: set[int] = set()
        """The numbers of the checks at which the engine has no sequences."""

    async def check(self, timeout_s: float) -> EngineHealth:
        self.checks += 1
        age_ms = next(self._script)
        if age_ms is None:
            raise ServiceUnavailable("gone")
        running = 0 if self.checks in self.idle_at else 1
        return EngineHealth(
            device="cpu",
            time_since_progress_s=age_ms / 1000,
            load=EngineLoad(running=running, longest_wait_ms=self.checks),
        )

    async def close(self) -> None: ...


async def watch(probe: ScriptedProbe, limits: HeartbeatLimits = LIMITS) -> EngineFailure:
    async with asyncio.timeout(30):
        return await wait_until_hung(probe, limits)


async def test_old_loop_is_stuck() -> None:
    probe = ScriptedProbe(10, 5_000, 5_001)
    failure = await watch(probe)
    assert failure.reason == "ENGINE_STALLED"
    assert failure.message == "it has run no step for 5.0 s; it was killed"
    assert probe.checks == 3


async def test_an_engine_is_frozen_only_after_several_missed_heartbeats() -> None:
    probe = ScriptedProbe(10, LOST, LOST, LOST)
    assert "has not answered" in (await watch(probe)).message
    assert probe.checks == 4


@pytest.mark.parametrize("script", [(LOST, LOST, 10), (LOST, 10, LOST, LOST, 10)])
async def test_an_answer_resets_the_count(script: tuple[int | None, ...]) -> None:
    probe = ScriptedProbe(*script)
    assert "has run no step for 99.0 s" in (await watch(probe)).message
    assert probe.checks == len(script) + 1


async def test_a_short_silence_is_tolerated() -> None:
    patient = HeartbeatLimits(
        interval_s=0.001, timeout_s=1, liveness_timeout_s=60, step_stall_timeout_s=5
    )
    probe = ScriptedProbe(*[LOST] * 20)
    assert "has run no step" in (await watch(probe, patient)).message


async def test_an_idle_engine_is_probed_less_often_but_a_missed_answer_changes_that() -> None:
    limits = HeartbeatLimits(
        interval_s=0.01, timeout_s=1, liveness_timeout_s=0.5, step_stall_timeout_s=5
    )
    assert limits.idle_interval_s == 0.25
    probe = ScriptedProbe(10, 10, LOST, LOST, 10, 99_000)
    probe.idle_at = {1, 2}
    started_s = time.monotonic()
    await watch(probe, limits)
    # Two idle intervals; the checks after the missed ones follow at the short interval.
    assert time.monotonic() - started_s >= 0.5
    assert probe.checks == 6


def test_an_engine_never_waits_longer_idle_than_busy() -> None:
    limits = HeartbeatLimits(
        interval_s=3, timeout_s=1, liveness_timeout_s=2, step_stall_timeout_s=5
    )
    assert limits.idle_interval_s == 3


async def test_the_load_of_each_answer_is_reported() -> None:
    probe = ScriptedProbe(10, LOST, 10)
    probe.idle_at = {3}
    loads: list[EngineLoad] = []
    await wait_until_hung(probe, LIMITS, loads.append)
    assert [(load.running, load.longest_wait_ms) for load in loads] == [(1, 1), (0, 3), (1, 4)]

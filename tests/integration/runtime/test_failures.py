"""Crashes and hangs are detected, restarted with backoff, given up in the end, and recorded."""

import asyncio
import errno
import os
import shlex
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from mlxmesh_shared.registry.directory import DirectoryRegistry
from mlxmesh_shared.registry.port import Instance
from tests.fakes import engine_process
from tests.fakes.engine_process import CRASH_EXIT_CODE
from tests.integration.runtime.harness import (
    FAILED,
    READY,
    STARTING,
    Limits,
    RuntimeUnderTest,
    alive,
    running_runtime,
    until_gone,
)


async def test_a_killed_engine_is_restarted(runtime: RuntimeUnderTest) -> None:
    first = await runtime.start_ready()
    os.kill(first.pid, signal.SIGKILL)
    second = await runtime.until_ready_again(restarts=1)
    assert second.restarts == 1
    assert second.pid != first.pid
    assert second.last_failure.reason == "ENGINE_CRASHED"
    assert "SIGKILL" in second.last_failure.message
    assert "out of memory" in second.last_failure.message
    [instance] = await runtime.registry.resolve("engine")
    assert instance.address == second.address


async def test_a_crashed_engine_is_deregistered_before_its_restart(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, Limits(backoff_min_s=30)) as runtime:
        ready = await runtime.start_ready()
        os.kill(ready.pid, signal.SIGSEGV)
        down = await runtime.until(lambda engine: engine.HasField("last_failure"))
        assert "SIGSEGV" in down.last_failure.message
        assert (down.pid, down.address) == (0, "")
        assert await runtime.registered() == []
        await runtime.stop()  # while it waits for its restart


async def test_failed_starts_are_retried_until_one_succeeds(runtime: RuntimeUnderTest) -> None:
    runtime.behave(crashes=2)
    await runtime.start()
    ready = await runtime.until_state(READY)
    assert ready.restarts == 2
    assert ready.last_failure.reason == "ENGINE_START_FAILED"
    assert ready.last_failure.message == (
        f"the engine process ended unexpectedly with exit code {CRASH_EXIT_CODE}: "
        "fake engine: crash 2 on purpose"
    )


async def test_breaker_opens_and_a_new_start_closes_it(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, Limits(breaker_failures=3)) as runtime:
        runtime.behave(crashes=3)
        await runtime.start()
        failed = await runtime.until_state(FAILED)
        assert (failed.restarts, failed.pid) == (2, 0)
        assert failed.last_failure.code == 13  # google.rpc.Code.INTERNAL
        log = (await runtime.get()).log_tail
        assert [line for line in log if "on purpose" in line] == [
            f"fake engine: crash {number} on purpose" for number in (1, 2, 3)
        ]
        anew = await runtime.start()
        assert (anew.state, anew.restarts) == (STARTING, 0)
        await runtime.until_state(READY)


async def test_a_refused_model_is_not_retried_and_the_whole_reason_is_recorded(
    runtime: RuntimeUnderTest,
) -> None:
    reason = "mlx-lm cannot load it: Missing 2 parameters: \nmodel.norm.weight,\nlm_head.weight."
    runtime.behave(refuses=reason)
    await runtime.start()
    failed = await runtime.until_state(FAILED)
    assert (failed.restarts, failed.pid) == (0, 0)
    failure = failed.last_failure
    assert (failure.code, failure.reason) == (9, "MODEL_REFUSED")  # FAILED_PRECONDITION
    assert failure.message == reason
    runtime.behave()
    await runtime.start()
    await runtime.until_state(READY)


async def test_failed_engine_can_be_stopped(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, Limits(breaker_failures=1)) as runtime:
        runtime.behave(crashes=1)
        await runtime.start()
        await runtime.until_state(FAILED)
        await runtime.stop()
        assert runtime.engines.page(after_id="", limit=10) == []


async def test_stable_runs_do_not_open_the_breaker(tmp_path: Path) -> None:
    # Every run counts as stable, so that no two failures count together.
    limits = Limits(breaker_failures=2, failure_reset_s=0.001)
    async with running_runtime(tmp_path, limits) as runtime:
        ready = await runtime.start_ready()
        for restarts in (1, 2, 3):
            os.kill(ready.pid, signal.SIGKILL)
            ready = await runtime.until_ready_again(restarts)
        assert ready.restarts == 3


async def test_starts_that_take_longer_than_a_stable_run_open_the_breaker(tmp_path: Path) -> None:
    limits = Limits(breaker_failures=2, failure_reset_s=0.001, start_timeout_s=0.2)
    async with running_runtime(tmp_path, limits) as runtime:
        runtime.behave(announce=False)
        await runtime.start()
        failed = await runtime.until_state(FAILED)
        assert failed.restarts == 1
        assert "not ready within" in failed.last_failure.message


class FullDisk(DirectoryRegistry):
    """A registry that cannot deregister."""

    async def deregister(self, instance: Instance) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")


async def test_supervision_survives_a_failing_registry(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, open_registry=FullDisk) as runtime:
        ready = await runtime.start_ready()
        os.kill(ready.pid, signal.SIGKILL)
        again = await runtime.until_ready_again(restarts=1)
        await runtime.stop(grace_ms=100)
        await until_gone(again.pid)


class AwayRegistry(DirectoryRegistry):
    """A registry that deregisters nothing until it is back."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.back = asyncio.Event()
        self.asked: list[str] = []

    async def register(self, instance: Instance) -> None:
        self.asked.append("register")
        await super().register(instance)

    async def deregister(self, instance: Instance) -> None:
        await self.back.wait()
        self.asked.append("deregister")
        await super().deregister(instance)


async def test_a_registry_that_is_away_does_not_hold_up_a_restart(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, open_registry=AwayRegistry) as runtime:
        registry = runtime.registry
        assert isinstance(registry, AwayRegistry)
        ready = await runtime.start_ready()
        os.kill(ready.pid, signal.SIGKILL)
        again = await runtime.until(lambda e: e.pid not in (0, ready.pid) and e.restarts == 1)
        assert again.state == STARTING
        registry.back.set()
        await runtime.until_ready_again(restarts=1)
        # It would remove its successor, which has its id, if it came later.
        assert registry.asked == ["register", "deregister", "register"]
        [instance] = await registry.resolve("engine")
        assert instance.address == (await runtime.get()).address


async def test_a_start_that_failed_does_not_overtake_a_deregistration(tmp_path: Path) -> None:
    program, away = tmp_path / "program", tmp_path / "program-away"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(engine_process.command())} "$@"\n')
    program.chmod(0o755)
    async with running_runtime(
        tmp_path, open_registry=AwayRegistry, program=[str(program)]
    ) as runtime:
        registry = runtime.registry
        assert isinstance(registry, AwayRegistry)
        ready = await runtime.start_ready()
        program.rename(away)
        os.kill(ready.pid, signal.SIGKILL)
        await runtime.until(lambda e: "cannot be started" in e.last_failure.message)
        away.rename(program)
        while (runtime.model_dir / engine_process.STARTS_FILE).read_text() == "1":
            await asyncio.sleep(0.02)
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while registry.asked == ["register"]:
                    await asyncio.sleep(0.02)
        registry.back.set()
        await runtime.until_state(READY)
        assert registry.asked == ["register", "deregister", "register"]
        assert await runtime.registered() == ["e1"]


async def test_an_engine_that_is_given_up_is_deregistered_before(tmp_path: Path) -> None:
    limits = Limits(breaker_failures=1)
    async with running_runtime(tmp_path, limits, open_registry=AwayRegistry) as runtime:
        registry = runtime.registry
        assert isinstance(registry, AwayRegistry)
        ready = await runtime.start_ready()
        os.kill(ready.pid, signal.SIGKILL)
        await runtime.until(lambda engine: engine.HasField("last_failure"))
        asyncio.get_running_loop().call_later(0.2, registry.back.set)
        await runtime.until_state(FAILED)
        assert registry.asked == ["register", "deregister"]
        await runtime.start_ready()
        assert await runtime.registered() == ["e1"]


async def test_a_frozen_engine_is_killed_and_restarted(tmp_path: Path) -> None:
    limits = Limits(timeout_s=0.5, liveness_timeout_s=3)
    async with running_runtime(tmp_path, limits) as runtime:
        first = await runtime.start_ready()
        os.kill(first.pid, signal.SIGSTOP)
        second = await runtime.until_ready_again(restarts=1)
        assert second.last_failure.reason == "ENGINE_STALLED"
        assert "not answered" in second.last_failure.message
        assert not alive(first.pid)


async def test_an_engine_whose_loop_hangs_is_restarted(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, Limits(step_stall_timeout_s=5)) as runtime:
        await runtime.start_ready()
        runtime.behave(time_since_progress_ms=6_000)
        failed = await runtime.until(lambda engine: engine.HasField("last_failure"))
        assert failed.last_failure.reason == "ENGINE_STALLED"
        assert "has run no step for 6.0 s" in failed.last_failure.message
        runtime.behave()
        await runtime.until_state(READY)


async def test_slow_answers_are_not_a_failure(runtime: RuntimeUnderTest) -> None:
    await runtime.start_ready()
    runtime.behave(slow_info_s=0.3, time_since_progress_ms=20_000)  # both within their limits
    steps = 0
    async for change in runtime.engines.watch():
        assert change.record is None or change.record.state.name == "READY"
        steps += 1
        if change.record is None:
            break
    assert steps == 2
    assert (await runtime.get()).restarts == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_stop_of_a_dying_engine(runtime: RuntimeUnderTest, number: signal.Signals) -> None:
    ready = await runtime.start_ready()
    os.kill(ready.pid, number)
    await runtime.stop(grace_ms=100)
    await until_gone(ready.pid)
    assert await runtime.registered() == []

"""WatchEngines: the current engines, a synced mark, then changes."""

import asyncio
import os
import signal

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from tests.integration.runtime.harness import (
    BACKOFF,
    DRAINING,
    PATIENCE_S,
    READY,
    STARTING,
    STOPPED,
    RuntimeUnderTest,
)


async def watch_until_stopped(
    runtime: RuntimeUnderTest, synced: asyncio.Event
) -> list[pb.WatchEnginesResponse]:
    changes: list[pb.WatchEnginesResponse] = []
    async with asyncio.timeout(PATIENCE_S):
        async for change in runtime.stub.WatchEngines(pb.WatchEnginesRequest()):
            changes.append(change)
            if change.synced:
                synced.set()
            if change.engine.state == STOPPED:
                break
    return changes


async def test_a_watch_sees_a_whole_lifecycle(runtime: RuntimeUnderTest) -> None:
    synced = asyncio.Event()
    watching = asyncio.create_task(watch_until_stopped(runtime, synced))
    await synced.wait()
    ready = await runtime.start_ready()
    os.kill(ready.pid, signal.SIGKILL)
    await runtime.until_ready_again(restarts=1)
    await runtime.stop()
    changes = await watching
    assert changes[0] == pb.WatchEnginesResponse(sequence=0, synced=True)
    states = [change.engine.state for change in changes[1:]]
    # STARTING twice: without and with its process.
    assert list(dict.fromkeys(states)) == [STARTING, READY, BACKOFF, DRAINING, STOPPED]
    sequences = [change.sequence for change in changes]
    assert sequences == sorted(set(sequences))


async def test_a_watch_begins_with_the_current_engines(runtime: RuntimeUnderTest) -> None:
    for engine_id in ("e1", "e2"):
        await runtime.start_ready(engine_id)
    seen: list[str] = []
    async for change in runtime.stub.WatchEngines(pb.WatchEnginesRequest()):
        if change.synced:
            break
        assert change.engine.state == READY
        seen.append(change.engine.engine_id)
    assert sorted(seen) == ["e1", "e2"]


async def test_the_load_is_listed_but_is_not_a_change(runtime: RuntimeUnderTest) -> None:
    runtime.behave(running=3, waiting=2, longest_wait_ms=70, time_since_progress_ms=2)
    before = await runtime.start_ready()
    assert (before.running_sequences, before.waiting_sequences) == (3, 2)
    synced = asyncio.Event()
    watching = asyncio.create_task(watch_until_stopped(runtime, synced))
    await synced.wait()
    runtime.behave(idle_ms=90_000)
    async with asyncio.timeout(PATIENCE_S):
        while (listed := await runtime.listed()).idle_ms != 90_000:
            await asyncio.sleep(0.02)
    assert (listed.running_sequences, listed.waiting_sequences, listed.longest_wait_ms) == (0, 0, 0)
    await runtime.stop()
    states = [change.engine.state for change in await watching if change.engine.engine_id]
    assert states == [READY, DRAINING, STOPPED]

"""Events of a whole mesh: what is done to it is seen in order, and once."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from mlxmesh.telemetry.v1.events_pb2 import Event, WatchEventsResponse
from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import MLXMESH, RunningMesh, wait_until_serving

REQUEST_ID = "a-story-that-goes-on"


def rows(mesh: RunningMesh, service: str) -> list[dict[str, Any]]:
    return [row for row in mesh.status()["instances"] if row["service"] == service]


News = AsyncIterator[WatchEventsResponse]


async def read_until(news: News, last: str, count: int, about: str = "") -> list[Event]:
    """The events until so many of the name `last` have come, about that subject where given."""
    seen: list[Event] = []
    async with asyncio.timeout(120):
        async for one in news:
            assert not one.HasField("gap")
            if one.HasField("event"):
                seen.append(one.event)
            if sum(event.name == last and is_about(event, about) for event in seen) == count:
                return seen
    raise AssertionError


def is_about(event: Event, about: str) -> bool:
    return about in ("", event.correlation_id)


def place(events: list[Event], name: str, about: str = "") -> int:
    """Where the first event of that name is, about that subject where given."""
    return next(
        index for index, event in enumerate(events) if event.name == name and is_about(event, about)
    )


async def test_an_engine_that_is_killed_under_a_stream_is_followed_to_its_return(
    mesh: RunningMesh,
) -> None:
    assert mesh.command("load", "pocket", "--replicas", "2").returncode == 0
    wait_until_serving(mesh)
    pids = {row["instance_id"]: row["pid"] for row in rows(mesh, "engine")}
    async with MeshClient(mesh.address) as client:
        before = [one async for one in _kept(client)][-1]
        asked = {"prompt": "A", "max_tokens": 3000, "ignore_eos": True, "request_id": REQUEST_ID}
        stream = client.generate("pocket", **asked)
        first = await anext(stream)
        assert first.started is not None
        engine = first.started.engine_id
        await anext(stream)
        os.kill(pids[engine], signal.SIGKILL)
        reading = asyncio.create_task(_read_out(stream))
        async with aclosing(client.watch_events(after_sequence=before.sequence)) as news:
            # That of a replica that was loaded just before may come late.
            events = await read_until(news, "engine.ready", 1, about=engine)
            if not any(event.name == "generation.resumed" for event in events):
                events += await read_until(news, "generation.resumed", 1)
        assert await reading == 1

    crashed = events[place(events, "engine.crashed")]
    resumed = events[place(events, "generation.resumed")]
    assert crashed.correlation_id == crashed.engine_crashed.engine_id == engine
    assert crashed.engine_crashed.failure.reason == "ENGINE_CRASHED"
    assert resumed.correlation_id == resumed.generation_resumed.request_id == REQUEST_ID
    assert resumed.generation_resumed.from_engine == engine
    assert resumed.generation_resumed.to_engine in pids.keys() - {engine}
    assert resumed.generation_resumed.completion_tokens > 0
    ready = place(events, "engine.ready", engine)
    assert place(events, "engine.crashed") < place(events, "engine.started", engine) < ready
    assert place(events, "generation.resumed") < ready
    assert len({event.event_id for event in events}) == len(events)


async def _kept(client: MeshClient) -> AsyncIterator[WatchEventsResponse]:
    async with aclosing(client.watch_events()) as news:
        async for one in news:
            yield one
            if one.HasField("synced"):
                return


async def _read_out(stream: Any) -> int:
    """How many times the generation went on elsewhere."""
    async for event in stream:
        if event.finished is not None:
            return event.finished.timings.resumptions
    raise AssertionError


async def test_a_watcher_that_comes_back_misses_nothing_and_sees_nothing_twice(
    mesh: RunningMesh,
) -> None:
    async with MeshClient(mesh.address) as client:
        sequence = [one async for one in _kept(client)][-1].sequence
        steady = client.watch_events(after_sequence=sequence, names=["model.*"])
        whole = asyncio.create_task(read_until(steady, "model.unloaded", 2))
        broken: list[Event] = []
        for action in ("load", "unload", "load", "unload"):
            result = await asyncio.to_thread(mesh.command, action, "pocket-mini")
            assert result.returncode == 0, result.stderr
            async with aclosing(
                client.watch_events(after_sequence=sequence, names=["model.*"])
            ) as news:
                broken += await read_until(news, f"model.{action}ed", 1)
            sequence = broken[-1].sequence
        expected = await whole
        await steady.aclose()
    assert [event.name for event in broken] == ["model.loaded", "model.unloaded"] * 2
    assert [event.event_id for event in broken] == [event.event_id for event in expected]
    assert {event.correlation_id for event in broken} == {"pocket-mini@1"}


def test_the_commands_show_what_happened_and_how_it_stands(mesh: RunningMesh) -> None:
    result = mesh.command("events", "--name", "model.*", "--json")
    assert result.returncode == 0, result.stderr
    names = [json.loads(line)["name"] for line in result.stdout.splitlines()]
    assert "model.registered" in names
    assert "model.loaded" in names
    last = json.loads(result.stdout.splitlines()[-1])
    rest = mesh.command("events", "--name", "model.*", "--since", last["sequence"])
    assert rest.stdout == ""
    assert mesh.command("events", "--name", "*").returncode == 1

    state = json.loads(mesh.command("top", "--json").stdout)
    assert {one["service"] for one in state["instances"]} >= {"gateway", "engine"}
    assert state["traffic"][0]["model"] == ""
    assert state["events"]
    assert "tokens/s" in mesh.command("top").stdout


def test_top_on_a_terminal_redraws_at_its_size_and_ends_with_ctrl_c(mesh: RunningMesh) -> None:
    screen, terminal = pty.openpty()
    arguments = ("top", "--interval", "0.2", "--data-dir", str(mesh.data_dir))
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    shown = subprocess.Popen(
        [*MLXMESH, *arguments], stdin=terminal, stdout=terminal, stderr=terminal, env=env
    )
    os.close(terminal)
    try:
        first = _read(screen, until="generation-")
        assert "last minute" in first
        shown.send_signal(signal.SIGWINCH)
        _read(screen, until="last minute")
        shown.send_signal(signal.SIGINT)
        rest = _read(screen, until="\x1b[?1049l")  # the screen of before is back
        assert "Traceback" not in rest
        assert shown.wait(60) == 130
    finally:
        shown.kill()
        shown.wait()
        os.close(screen)


def _read(terminal: int, until: str) -> str:
    text, deadline_s = "", time.monotonic() + 60
    while until not in text and time.monotonic() < deadline_s:
        if select.select([terminal], [], [], 0.2)[0]:
            text += os.read(terminal, 65536).decode(errors="replace")
    assert until in text
    return text

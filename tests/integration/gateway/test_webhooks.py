"""Webhooks against a real HTTP server that takes events, refuses them, or is not there."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from mlxmesh.telemetry.v1.events_pb2 import EngineReady, Event, ModelLoaded
from mlxmesh_gateway.events.event_log import GatewayEventLog
from mlxmesh_gateway.events.webhooks import RetryLimits, running_webhooks
from mlxmesh_shared.events import make_event
from mlxmesh_shared.registry import Instance
from tests.fakes.waiting import until

QUICK = RetryLimits(attempts=3, pause_min_s=0.01, pause_max_s=0.02)


class Receiver:
    """Answers with the statuses that it is given, then with 204."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/json"
        self.got.append((request.headers["Idempotency-Key"], json.loads(await request.text())))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204)

    def has(self, payload: str, instance_id: str) -> bool:
        """Whether it got an event of this kind of this instance."""
        return any(body.get(payload, {}).get("instance_id") == instance_id for _, body in self.got)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/events", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
    yield receiver
    await runner.cleanup()


def loaded(version: int) -> Event:
    payload = ModelLoaded(model="pocket", version=version)
    return make_event(payload, service="model", instance_id="model-1")


async def test_an_event_is_posted_with_its_id_as_idempotency_key(receiver: Receiver) -> None:
    log, event = GatewayEventLog(), loaded(1)
    log.add([loaded(0)])  # of before: not told
    async with running_webhooks((receiver.url,), log.events, limits=QUICK) as [hook]:
        await asyncio.sleep(0)
        log.add([event])
        await until(lambda: hook.delivered == 1)
    [(key, body)] = receiver.got
    assert key == body["event_id"] == event.event_id
    assert (body["name"], body["model_loaded"]["version"]) == ("model.loaded", 1)


async def test_only_what_the_hook_wants_is_told(receiver: Receiver) -> None:
    log = GatewayEventLog()
    ready = make_event(EngineReady(engine_id="e"), service="runtime", instance_id="r")
    setting = f"{receiver.url} engine.* model.unloaded"
    async with running_webhooks((setting,), log.events, limits=QUICK) as [hook]:
        await asyncio.sleep(0)
        log.add([loaded(1), ready])
        await until(lambda: hook.delivered == 1)
    assert [body["name"] for _, body in receiver.got] == ["engine.ready"]


@pytest.mark.parametrize("status", [500, 503, 429, 408])
async def test_a_receiver_that_is_busy_is_tried_again_with_the_same_key(
    receiver: Receiver, status: int
) -> None:
    log = GatewayEventLog()
    receiver.statuses = [status, status]
    async with running_webhooks((receiver.url,), log.events, limits=QUICK) as [hook]:
        await asyncio.sleep(0)
        log.add([loaded(1), loaded(2)])
        await until(lambda: hook.delivered == 2)
    keys = [key for key, _ in receiver.got]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert hook.dropped == 0


@pytest.mark.parametrize("status", [301, 400, 404])
async def test_what_a_receiver_refuses_is_dropped_and_counted(
    receiver: Receiver, status: int
) -> None:
    log = GatewayEventLog()
    receiver.statuses = [status]
    async with running_webhooks((receiver.url,), log.events, limits=QUICK) as [hook]:
        await asyncio.sleep(0)
        log.add([loaded(1), loaded(2)])
        await until(lambda: hook.delivered == 1)
    assert (len(receiver.got), hook.dropped) == (2, 1)


async def test_a_dead_hook_holds_up_no_other_and_is_named_without_its_path(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    log = GatewayEventLog()
    dead = "http://127.0.0.1:1/a-secret-path"
    async with running_webhooks((dead, receiver.url), log.events, limits=QUICK) as [lost, hook]:
        await asyncio.sleep(0)
        log.add([loaded(1)])
        await until(lambda: hook.delivered == 1 and lost.dropped == 1)
    assert "127.0.0.1" in caplog.text
    assert "a-secret-path" not in caplog.text


async def test_a_hook_that_is_slower_than_the_log_loses_what_is_given_up() -> None:
    log = GatewayEventLog(most_kept=2)
    never = RetryLimits(attempts=1)
    async with running_webhooks(("http://127.0.0.1:1/",), log.events, limits=never) as [hook]:
        await asyncio.sleep(0)
        log.add(loaded(number) for number in range(6))
        await until(lambda: hook.dropped == 6)


async def test_a_gateway_with_the_setting_tells_its_hook(stand: Any, receiver: Receiver) -> None:
    wanted = "instance.registered instance.deregistered"
    await stand.gateway(event_webhooks=(f"{receiver.url} {wanted}",))
    engine = Instance("engine", "engine-1", "127.0.0.1:1", pid=1)
    await stand.registry.register(engine)
    await until(lambda: receiver.has("instance_registered", "engine-1"))
    await stand.registry.deregister(engine)
    await until(lambda: receiver.has("instance_deregistered", "engine-1"))

"""GetMeshStatus: every process is there, well or not, and nothing that is ill hides the rest."""

import asyncio
from typing import Any

from mlxmesh.generation.v1.generation_pb2_grpc import add_GenerationServiceServicer_to_server
from mlxmesh.telemetry.v1 import telemetry_pb2 as t
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import add_TelemetryServiceServicer_to_server
from mlxmesh_client import MeshClient
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.engine import FakeEngine
from tests.fakes.public_services import GENERATION, FakeGeneration

TELEMETRY = "mlxmesh.telemetry.v1.TelemetryService"
OPEN = t.Breaker(state=t.BREAKER_STATE_OPEN, failures=3, retry_in_ms=200)
HALF_OPEN = t.Breaker(state=t.BREAKER_STATE_HALF_OPEN, failures=9)
CLOSED = t.Breaker(state=t.BREAKER_STATE_CLOSED)


class FakeEngineStatus:
    """What one generation instance thinks of the engines."""

    def __init__(self, breakers: dict[str, t.Breaker]) -> None:
        self._breakers = breakers

    async def GetMeshStatus(self, request: Any, context: Any) -> t.GetMeshStatusResponse:
        instances = [
            t.Instance(service="engine", instance_id=engine_id, breaker=breaker)
            for engine_id, breaker in self._breakers.items()
        ]
        return t.GetMeshStatusResponse(instances=instances)

    WatchEvents = PublishEvents = GetTraffic = GetTrace = GetMeshStatus  # never called


def generation_that_tells(breakers: dict[str, t.Breaker]) -> MeshServer:
    return MeshServer(
        services=[
            (add_GenerationServiceServicer_to_server, FakeGeneration()),
            (add_TelemetryServiceServicer_to_server, FakeEngineStatus(breakers)),
        ],
        service_names=[GENERATION, TELEMETRY],
    )


async def by_id(client: MeshClient) -> dict[str, t.Instance]:
    return {one.instance_id: one for one in await client.mesh_status()}


async def test_every_kind_is_listed_in_order_with_its_health(stand: Any) -> None:
    engine = FakeEngine()
    engine.options.max_running = 7
    async with engine.running():
        await stand.registry.register(engine.instance)
        await (await stand.announced_server("model", "model-1")).set_serving()
        await stand.announced_server("runtime", "runtime-1")  # starting: it says NOT_SERVING
        gone = Instance("generation", "generation-1", "127.0.0.1:1", pid=1, metadata={"zone": "b"})
        await stand.registry.register(gone)
        client = await stand.client(await stand.gateway())
        instances = await client.mesh_status()

    assert [(one.service, one.health) for one in instances] == [
        ("gateway", t.HEALTH_SERVING),
        ("generation", t.HEALTH_UNREACHABLE),
        ("model", t.HEALTH_SERVING),
        ("runtime", t.HEALTH_NOT_SERVING),
        ("engine", t.HEALTH_SERVING),
    ]
    assert instances[1].metadata == {"zone": "b"}
    assert instances[4].metadata["model"] == "pocket"
    assert (instances[4].load.max_running, instances[4].outstanding) == (7, 0)
    assert [one.HasField("breaker") for one in instances] == [False, True, True, False, False]


async def test_calls_under_way_are_counted_where_they_run(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    client = await stand.client(await stand.gateway())
    stream = client.generate("pocket", prompt="a b")
    await anext(stream)

    seen = (await by_id(client))["generation-1"]
    assert (seen.outstanding, seen.breaker.state) == (1, t.BREAKER_STATE_CLOSED)
    await stream.aclose()


async def test_an_engines_breaker_is_the_worst_that_any_generation_instance_sees(
    stand: Any,
) -> None:
    views = [{"engine-1": CLOSED, "engine-2": OPEN}, {"engine-1": HALF_OPEN, "engine-2": CLOSED}]
    for number, view in enumerate(views):
        await stand.announce("generation", f"generation-{number}", generation_that_tells(view))
    for name in ("engine-1", "engine-2", "engine-3"):
        await stand.registry.register(Instance("engine", name, "127.0.0.1:1", pid=1))
    seen = await by_id(await stand.client(await stand.gateway()))

    assert (seen["engine-1"].breaker, seen["engine-2"].breaker) == (HALF_OPEN, OPEN)
    assert not seen["engine-3"].HasField("breaker")
    assert seen["engine-3"].health == t.HEALTH_UNREACHABLE


async def test_an_ill_registry_hides_nothing_that_the_gateway_knows_itself(stand: Any) -> None:
    await stand.generation()
    client = await stand.client(await stand.gateway())

    async def away(service: str) -> tuple[Instance, ...]:
        raise OSError("the registry is away")

    stand.registry.resolve = away
    seen = await by_id(client)
    assert seen["generation-1"].health != t.HEALTH_UNREACHABLE


async def test_an_instance_that_left_the_registry_but_is_still_used_is_listed(stand: Any) -> None:
    instance = await stand.announce("generation", "generation-1", generation_that_tells({}))
    client = await stand.client(await stand.gateway())
    await stand.registry.deregister(instance)
    assert "generation-1" in await by_id(client)


async def test_the_contract_is_served_and_says_so(stand: Any) -> None:
    channel = await stand.channel(await stand.gateway())
    assert await stand.health(channel, TELEMETRY) == "SERVING"


async def test_one_connection_a_process_is_kept_for_the_next_time(stand: Any) -> None:
    peers: set[str] = set()

    class Telling(FakeEngineStatus):
        async def GetMeshStatus(self, request: Any, context: Any) -> t.GetMeshStatusResponse:
            peers.add(context.peer())
            return await super().GetMeshStatus(request, context)

    server = MeshServer(
        services=[(add_TelemetryServiceServicer_to_server, Telling({}))],
        service_names=[TELEMETRY],
    )
    await stand.announce("generation", "generation-1", server)
    client = await stand.client(await stand.gateway())

    for _ in range(3):
        await asyncio.gather(*(client.mesh_status() for _ in range(5)))

    assert len(peers) == 1

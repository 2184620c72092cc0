"""What the model service relies on of a runtime: one suite for the real one and for the fake."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh.runtime.v1.runtime_pb2_grpc import RuntimeServiceStub
from mlxmesh_shared.errors import EngineExists, EngineNotFound, InvalidArgument
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.engine_process import write_model_dir
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.runtime import FakeHost, FakeRuntime
from tests.integration.runtime.harness import running_runtime

READY = pb.ENGINE_STATE_READY


@pytest.fixture(params=["fake", "real"])
async def stub(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[RuntimeServiceStub]:
    if request.param == "real":
        async with running_runtime(tmp_path) as runtime:
            yield runtime.stub
        return
    host = await FakeHost(FakeRuntime(), InMemoryRegistry()).start()
    assert host.instance is not None
    async with open_channel(host.instance.address) as channel:
        yield RuntimeServiceStub(channel)
    await host.crash()


@pytest.fixture
def start_request(tmp_path: Path) -> pb.StartEngineRequest:
    directory = write_model_dir(tmp_path / "a-model")
    return pb.StartEngineRequest(
        engine_id="pocket-v1-abcdef", model="pocket", model_version=1, model_dir=str(directory)
    )


async def until_ready(stub: RuntimeServiceStub, engine_id: str) -> pb.Engine:
    async for change in stub.WatchEngines(pb.WatchEnginesRequest()):
        if change.engine.engine_id == engine_id and change.engine.state == READY:
            return change.engine
    raise AssertionError("the watch ended")


async def listed(
    stub: RuntimeServiceStub, page_size: int = 0, page_token: str = ""
) -> pb.ListEnginesResponse:
    return await stub.ListEngines(pb.ListEnginesRequest(page_size=page_size, page_token=page_token))


async def test_a_started_engine_becomes_ready(stub, start_request):
    answer = await stub.StartEngine(start_request)
    assert answer.engine.engine_id == "pocket-v1-abcdef"
    assert (answer.engine.model, answer.engine.model_version) == ("pocket", 1)
    engine = await until_ready(stub, "pocket-v1-abcdef")
    assert engine.address
    assert engine.pid > 0
    assert not engine.HasField("last_failure")


async def test_starting_again_changes_nothing(stub, start_request):
    await stub.StartEngine(start_request)
    engine = await until_ready(stub, "pocket-v1-abcdef")
    again = (await stub.StartEngine(start_request)).engine
    assert (again.state, again.pid) == (READY, engine.pid)
    assert len((await listed(stub)).engines) == 1


async def test_the_same_id_for_another_model(stub, start_request):
    await stub.StartEngine(start_request)
    start_request.model_version = 2
    with pytest.raises(EngineExists):
        await stub.StartEngine(start_request)


@pytest.mark.parametrize("model_dir", ["/nowhere/at/all", "relative", "/"])
async def test_a_directory_that_is_no_model(stub, start_request, model_dir):
    start_request.model_dir = model_dir
    with pytest.raises(InvalidArgument) as caught:
        await stub.StartEngine(start_request)
    assert caught.value.field == "model_dir"
    assert (await listed(stub)).engines == []


async def test_a_stopped_engine_is_gone(stub, start_request):
    await stub.StartEngine(start_request)
    await until_ready(stub, "pocket-v1-abcdef")
    await stub.StopEngine(pb.StopEngineRequest(engine_id="pocket-v1-abcdef"))
    assert (await listed(stub)).engines == []
    for again in (
        stub.StopEngine(pb.StopEngineRequest(engine_id="pocket-v1-abcdef")),
        stub.GetEngine(pb.GetEngineRequest(engine_id="pocket-v1-abcdef")),
    ):
        with pytest.raises(EngineNotFound):
            await again


async def test_listing_pages_by_id(stub, start_request):
    for engine_id in ("c", "a", "b"):
        start_request.engine_id = engine_id
        await stub.StartEngine(start_request)
    first = await listed(stub, page_size=2)
    assert [engine.engine_id for engine in first.engines] == ["a", "b"]
    rest = await listed(stub, page_size=2, page_token=first.next_page_token)
    assert [engine.engine_id for engine in rest.engines] == ["c"]
    assert rest.next_page_token == ""
    with pytest.raises(InvalidArgument):
        await listed(stub, page_token="no answer gave this")


async def test_a_watch_begins_with_what_there_is(stub, start_request):
    await stub.StartEngine(start_request)
    await until_ready(stub, "pocket-v1-abcdef")
    changes = aiter(stub.WatchEngines(pb.WatchEnginesRequest()))
    assert (await anext(changes)).engine.engine_id == "pocket-v1-abcdef"
    assert (await anext(changes)).synced
    await stub.StopEngine(pb.StopEngineRequest(engine_id="pocket-v1-abcdef"))
    async for change in changes:
        if change.engine.state == pb.ENGINE_STATE_STOPPED:
            break


async def test_the_hosts_facts(stub):
    info = await stub.GetRuntimeInfo(pb.GetRuntimeInfoRequest())
    assert info.runtime_id
    assert info.device in ("cpu", "metal", "cuda")
    assert 0 < info.memory_available_bytes <= info.memory_total_bytes


async def test_memory_that_engines_may_use_and_have_to_free(stub, start_request):
    info = await stub.GetRuntimeInfo(pb.GetRuntimeInfoRequest())
    assert 0 < info.memory_limit_bytes <= info.memory_total_bytes
    assert (info.memory_shortage_bytes, info.engines_bytes) == (0, 0)
    await stub.StartEngine(start_request)
    await until_ready(stub, "pocket-v1-abcdef")
    info = await stub.GetRuntimeInfo(pb.GetRuntimeInfoRequest())
    [engine] = (await listed(stub)).engines
    assert info.engines_bytes > 0
    assert engine.memory_bytes > 0


async def test_an_idle_engine_has_no_sequences(stub, start_request):
    await stub.StartEngine(start_request)
    await until_ready(stub, "pocket-v1-abcdef")
    [engine] = (await listed(stub)).engines
    assert (engine.running_sequences, engine.waiting_sequences, engine.longest_wait_ms) == (0, 0, 0)


@pytest.mark.parametrize("field", ["dtype", "context_tokens", "kv_cache_bytes", "forward"])
async def test_an_option_that_no_engine_has(stub, start_request, field):
    illegal = {"dtype": "int4", "context_tokens": 0, "kv_cache_bytes": 1, "forward": "--help"}
    start_request.options.CopyFrom(pb.EngineOptions(**{field: illegal[field]}))
    with pytest.raises(InvalidArgument) as caught:
        await stub.StartEngine(start_request)
    assert caught.value.field == f"options.{field}"
    assert (await listed(stub)).engines == []


@pytest.mark.parametrize(
    ("speculative", "draft_model_dir", "field"),
    [
        ("fast", "", "speculative"),
        ("draft", "", "draft_model_dir"),
        ("draft", "pocket-mini", "draft_model_dir"),
        ("draft", "/" + 4096 * "x", "draft_model_dir"),
    ],
)
async def test_a_draft_model_that_no_engine_could_load(
    stub, start_request, speculative, draft_model_dir, field
):
    options = pb.EngineOptions(speculative=speculative, draft_model_dir=draft_model_dir)
    start_request.options.CopyFrom(options)
    with pytest.raises(InvalidArgument) as caught:
        await stub.StartEngine(start_request)
    assert caught.value.field == f"options.{field}"

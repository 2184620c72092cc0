"""EngineService over real gRPC, on a real model."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.engine.v1 import engine_pb2, engine_pb2_grpc
from mlxmesh_engine.forward.loader import device_name
from mlxmesh_engine.scheduling.capacity import Admission
from mlxmesh_engine.service.dispatcher import Dispatcher
from mlxmesh_engine.service.mlx_thread import LoopOptions, MlxThread
from mlxmesh_engine.service.servicer import SERVICE, EngineServicer
from mlxmesh_shared.errors import EngineDraining, MalformedMessage
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import EngineSettings
from tests.fakes.engine_rig import load_model
from tests.fakes.tiny_model import CONTEXT_TOKENS, VOCAB_SIZE

Stop = engine_pb2.ENGINE_FINISH_REASON_STOP
Length = engine_pb2.ENGINE_FINISH_REASON_LENGTH
Cancelled = engine_pb2.ENGINE_FINISH_REASON_CANCELLED


class Engine:
    """A served engine and a client for it."""

    def __init__(self, dispatcher: Dispatcher, thread: MlxThread, address: str) -> None:
        self.dispatcher = dispatcher
        self.thread = thread
        self._channel = open_channel(address)
        self.stub = engine_pb2_grpc.EngineServiceStub(self._channel)  # type: ignore[arg-type]

    def open(self) -> "Talk":
        return Talk(self.stub.Execute())

    def open_raw(self) -> Any:
        return self._channel.stream_stream(f"/{SERVICE.full_name}/Execute")()

    async def running(self) -> int:
        info = await self.stub.GetEngineInfo(engine_pb2.GetEngineInfoRequest())
        return info.load.running + info.load.waiting

    async def close(self) -> None:
        await self._channel.close()


class Talk:
    """One Execute stream."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.tokens: dict[int, list[int]] = {}

    async def submit(self, sequence_id: int, **fields: Any) -> None:
        defaults: dict[str, Any] = {"prompt_token_ids": [5, 6, 7], "max_tokens": 8}
        submit = engine_pb2.Submit(sequence_id=sequence_id, **(defaults | fields))
        await self.call.write(engine_pb2.ExecuteRequest(submit=submit))

    async def cancel(self, sequence_id: int) -> None:
        cancel = engine_pb2.Cancel(sequence_ids=[sequence_id])
        await self.call.write(engine_pb2.ExecuteRequest(cancel=cancel))

    async def end(self, sequence_id: int) -> engine_pb2.SequenceOutput:
        """Reads until this sequence's last output."""
        while True:
            response = await asyncio.wait_for(self.call.read(), 30)
            for output in response.outputs:
                self.tokens.setdefault(output.sequence_id, []).extend(output.token_ids)
                if output.sequence_id == sequence_id and (
                    output.finish_reason or output.HasField("failure")
                ):
                    return output

    async def first_token(self, sequence_id: int) -> None:
        while not self.tokens.get(sequence_id):
            response = await asyncio.wait_for(self.call.read(), 30)
            for output in response.outputs:
                self.tokens.setdefault(output.sequence_id, []).extend(output.token_ids)


Serve = Callable[..., Any]


@pytest.fixture
async def serve(tiny_model: Path) -> AsyncIterator[Serve]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(**options: Any) -> Engine:
            loop_options = LoopOptions(**options)
            thread = MlxThread(lambda: load_model(tiny_model), loop_options)
            admission = Admission(
                max_running=loop_options.max_running, max_waiting=loop_options.max_waiting
            )
            dispatcher = Dispatcher(thread, admission)
            loaded = await thread.start(dispatcher.deliver)
            stack.push_async_callback(thread.stop)
            settings = EngineSettings(engine_id="engine-1", model="tiny", model_version=3)
            servicer = EngineServicer(
                dispatcher=dispatcher, backend=thread, loaded=loaded, settings=settings
            )
            server = MeshServer(
                services=(),
                service_names=(SERVICE.full_name,),
                generic_handlers=(servicer.handlers(),),
            )
            engine = Engine(dispatcher, thread, await server.start())
            stack.push_async_callback(server.drain, grace_s=0.0, settle_s=0.0)
            stack.push_async_callback(engine.close)
            return engine

        yield start


@pytest.fixture
async def engine(serve: Serve) -> Engine:
    return await serve()


async def read_to_the_end(call: Any) -> None:
    while await call.read() is not aio.EOF:
        pass


async def wait_for_none_running(engine: Engine) -> None:
    async with asyncio.timeout(30):
        while await engine.running():
            await asyncio.sleep(0.02)


async def test_many_sequences_share_a_stream(engine: Engine) -> None:
    talk = engine.open()
    for number in range(1, 9):
        await talk.submit(number, max_tokens=4 + number, ignore_eos=True)
    for number in range(1, 9):
        await talk.submit(100 + number, max_tokens=1)
    last = await talk.end(8)
    assert last.finish_reason == Length
    assert last.timings.prefill_ms > 0
    assert [len(talk.tokens[number]) for number in range(1, 9)] == list(range(5, 13))
    talk.call.cancel()


async def test_a_stop_token_ends_a_sequence(engine: Engine) -> None:
    talk = engine.open()
    await talk.submit(1, ignore_eos=True)
    await talk.end(1)
    stop = talk.tokens[1][2]
    await talk.submit(2, ignore_eos=True, stop_token_ids=[stop])
    last = await talk.end(2)
    assert last.finish_reason == Stop
    assert talk.tokens[2] == talk.tokens[1][: talk.tokens[1].index(stop) + 1]
    talk.call.cancel()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt_token_ids": []}, "submit.prompt_token_ids"),
        ({"prompt_token_ids": [VOCAB_SIZE]}, "prompt_token_ids[0]"),
        ({"sampling": {"temperature": -1}}, "submit.sampling.temperature"),
        ({"sampling": {"temperature": float("nan")}}, "submit.sampling.temperature"),
        ({"sampling": {"top_p": 0}}, "submit.sampling.top_p"),
        ({"sampling": {"logit_bias": {VOCAB_SIZE: 1}}}, "sampling.logit_bias[300]"),
        ({"max_tokens": 0}, "submit.max_tokens"),
        ({"max_tokens": CONTEXT_TOKENS}, "max_tokens"),
        ({"stop_token_ids": [2**32 - 1]}, "stop_token_ids[0]"),
        ({"logprobs": {"top": 21}}, "submit.logprobs.top"),
        ({"shares_prefill_of": 0}, "submit.shares_prefill_of"),
        ({"adapter": {"directory": "/a"}}, "submit.adapter.digest"),
        ({"adapter": {"digest": "A" * 64, "directory": "/a"}}, "submit.adapter.digest"),
        ({"adapter": {"digest": "a" * 64}}, "submit.adapter.directory"),
        (
            {"adapter": {"digest": "a" * 64, "directory": "/" * 4097}},
            "submit.adapter.directory",
        ),
        ({"adapter": {"digest": "a" * 64, "directory": "a"}}, "adapter.directory"),
    ],
)
async def test_an_illegal_submit_fails_alone(
    engine: Engine, fields: dict[str, Any], field: str
) -> None:
    if "sampling" in fields:
        fields = {"sampling": Sampling(**fields["sampling"])}
    if "adapter" in fields:
        fields = {"adapter": engine_pb2.Adapter(**fields["adapter"])}
    talk = engine.open()
    await talk.submit(1, max_tokens=200, ignore_eos=True)
    await talk.first_token(1)
    await talk.submit(2, **fields)
    failed = await talk.end(2)
    assert failed.failure.code == 3
    assert failed.failure.field == field
    assert (await talk.end(1)).finish_reason == Length
    talk.call.cancel()


async def test_invalid_bytes_end_the_stream_and_its_sequences(engine: Engine) -> None:
    talk = engine.open_raw()
    submit = engine_pb2.Submit(sequence_id=1, prompt_token_ids=[1], max_tokens=2000)
    await talk.write(engine_pb2.ExecuteRequest(submit=submit).SerializeToString())
    await talk.read()
    await talk.write(b"\xff\xff\xff not a message")
    with pytest.raises(MalformedMessage):
        await read_to_the_end(talk)
    await wait_for_none_running(engine)


async def test_a_command_without_content_is_refused(engine: Engine) -> None:
    talk = engine.open()
    await talk.call.write(engine_pb2.ExecuteRequest())
    assert (await talk.end(0)).failure.code == 3
    talk.call.cancel()


async def test_cancel_answers_and_releases_the_slot(engine: Engine) -> None:
    talk = engine.open()
    await talk.submit(1, max_tokens=2000, ignore_eos=True)
    await talk.first_token(1)
    await talk.cancel(1)
    await talk.cancel(77)
    assert (await talk.end(1)).finish_reason == Cancelled
    await wait_for_none_running(engine)
    talk.call.cancel()


async def test_a_full_engine_says_when_to_retry(serve: Serve) -> None:
    engine = await serve(max_running=1, max_waiting=1)
    talk = engine.open()
    for number in (1, 2, 3):
        await talk.submit(number, max_tokens=1000, ignore_eos=True)
    failed = await talk.end(3)
    assert (failed.failure.reason, failed.failure.code) == ("QUEUE_FULL", 8)
    assert failed.failure.retry_delay_ms > 0
    await talk.cancel(1)
    await talk.end(1)
    await talk.submit(4)
    assert (await talk.end(2)).finish_reason == Length
    assert (await talk.end(4)).finish_reason
    talk.call.cancel()


async def test_a_deadline_ends_a_sequence_and_keeps_its_tokens(engine: Engine) -> None:
    talk = engine.open()
    await talk.submit(1, max_tokens=2000, ignore_eos=True, timeout_ms=150)
    failed = await talk.end(1)
    assert (failed.failure.reason, failed.failure.code) == ("DEADLINE_EXCEEDED", 4)
    assert len(talk.tokens[1]) > 0
    talk.call.cancel()


async def test_the_end_of_a_stream_drops_only_its_sequences(engine: Engine) -> None:
    leaver, stayer = engine.open(), engine.open()
    for number in range(1, 6):
        await leaver.submit(number, max_tokens=2000, ignore_eos=True)
    await stayer.submit(1, max_tokens=60, ignore_eos=True)
    await leaver.first_token(1)
    leaver.call.cancel()
    assert (await stayer.end(1)).finish_reason == Length
    await wait_for_none_running(engine)
    stayer.call.cancel()


async def test_a_caller_that_half_closes_gets_its_outputs(engine: Engine) -> None:
    talk = engine.open()
    await talk.submit(1, max_tokens=30, ignore_eos=True)
    await talk.call.done_writing()
    assert (await talk.end(1)).finish_reason == Length
    assert len(talk.tokens[1]) == 30


async def test_a_drain_refuses_finishes_and_then_ends_the_stream(engine: Engine) -> None:
    talk = engine.open()
    await talk.submit(1, max_tokens=400, ignore_eos=True)
    await talk.first_token(1)
    drain = asyncio.create_task(engine.dispatcher.drain(60))
    await asyncio.sleep(0)
    await talk.submit(2)
    assert (await talk.end(2)).failure.reason == "ENGINE_DRAINING"
    assert (await talk.end(1)).finish_reason == Length
    await asyncio.wait_for(drain, 30)
    with pytest.raises(EngineDraining):
        await talk.call.read()


async def test_a_submit_resumes_after_tokens_of_another_engine(engine: Engine) -> None:
    talk = engine.open()
    sampling = Sampling(temperature=1, seed=9)
    await talk.submit(1, max_tokens=20, ignore_eos=True, sampling=sampling)
    await talk.end(1)
    head, rest = talk.tokens[1][:9], talk.tokens[1][9:]
    await talk.submit(
        2, max_tokens=20, ignore_eos=True, sampling=sampling, generated_token_ids=head
    )
    await talk.end(2)
    assert talk.tokens[2] == rest
    talk.call.cancel()


async def test_engine_info(engine: Engine) -> None:
    info = await engine.stub.GetEngineInfo(engine_pb2.GetEngineInfoRequest())
    assert (info.engine_id, info.model, info.model_version) == ("engine-1", "tiny", 3)
    assert (info.device, info.dtype) == (device_name(), "float32")
    assert (info.vocab_size, info.context_tokens) == (VOCAB_SIZE, CONTEXT_TOKENS)
    assert info.weights_bytes > 0
    assert info.time_since_progress_ms < 5000
    assert (info.load.max_running, info.load.max_waiting) == (64, 256)


async def test_a_sequence_may_name_one_that_does_not_exist_or_itself(engine: Engine) -> None:
    for number, named in ((1, 1), (2, 999)):
        talk = engine.open()
        await talk.submit(number, shares_prefill_of=named, ignore_eos=True)
        assert (await talk.end(number)).finish_reason == Length
        talk.call.cancel()

"""What generation relies on of an engine: one suite for real, simulated and fake."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from grpc import aio

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.engine.v1.engine_pb2 import (
    Cancel,
    EngineLoad,
    ExecuteRequest,
    GetEngineInfoRequest,
    SequenceOutput,
    Submit,
)
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.error_status import from_failure
from tests.fakes.engine import FakeEngine, FakeEngineOptions
from tests.fakes.engine_child import engine_child

MAX_RUNNING = 4
MAX_WAITING = 2
LIMITS = ("--max-running", str(MAX_RUNNING), "--max-waiting", str(MAX_WAITING))
STOP = engine_pb2.ENGINE_FINISH_REASON_STOP
LENGTH = engine_pb2.ENGINE_FINISH_REASON_LENGTH
CANCELLED = engine_pb2.ENGINE_FINISH_REASON_CANCELLED


@pytest.fixture(scope="module")
def real_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with engine_child(tmp_path_factory.mktemp("engine"), *LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def simulated_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    simulated = ("--backend", "simulated", "--simulated-step-ms", "1")
    with engine_child(tmp_path_factory.mktemp("simulated"), *LIMITS, *simulated) as address:
        yield address


@pytest.fixture(params=["fake", "simulated", "real"])
async def stub(request: pytest.FixtureRequest) -> AsyncIterator[EngineServiceStub]:
    if request.param != "fake":
        async with open_channel(request.getfixturevalue(f"{request.param}_address")) as channel:
            yield EngineServiceStub(channel)
        return
    options = FakeEngineOptions(max_running=MAX_RUNNING, max_waiting=MAX_WAITING)
    async with (
        FakeEngine(options).running() as engine,
        open_channel(engine.instance.address) as channel,
    ):
        yield EngineServiceStub(channel)


class Talk:
    """One Execute stream, and what it said of each sequence."""

    def __init__(self, stub: EngineServiceStub) -> None:
        self._call: aio.StreamStreamCall[ExecuteRequest, engine_pb2.ExecuteResponse] = (
            stub.Execute()
        )
        self.outputs: dict[int, list[SequenceOutput]] = {}
        self.load = EngineLoad()

    async def submit(self, sequence_id: int, **fields: object) -> None:
        defaults: dict[str, object] = {
            "prompt_token_ids": [5, 6, 7],
            "max_tokens": 5,
            "ignore_eos": True,
        }
        submit = Submit(sequence_id=sequence_id, **{**defaults, **fields})  # pyright: ignore[reportArgumentType]
        await self._call.write(ExecuteRequest(submit=submit))

    async def cancel(self, sequence_id: int, *more: int) -> None:
        cancel = Cancel(sequence_ids=[sequence_id, *more])
        await self._call.write(ExecuteRequest(cancel=cancel))

    async def read(self) -> None:
        response = await self._call.read()
        assert isinstance(response, engine_pb2.ExecuteResponse)
        self.load = response.load
        for output in response.outputs:
            self.outputs.setdefault(output.sequence_id, []).append(output)

    async def until_tokens(self, sequence_id: int) -> None:
        while not self.tokens(sequence_id):
            await self.read()

    async def end(self, *sequence_ids: int) -> list[SequenceOutput]:
        """The last output of each, once they all ended."""
        while not all(self._ended(sequence_id) for sequence_id in sequence_ids):
            await self.read()
        return [self.outputs[sequence_id][-1] for sequence_id in sequence_ids]

    def tokens(self, sequence_id: int) -> list[int]:
        outputs = self.outputs.get(sequence_id, [])
        return [token for output in outputs for token in output.token_ids]

    def close(self) -> None:
        self._call.cancel()

    def _ended(self, sequence_id: int) -> bool:
        outputs = self.outputs.get(sequence_id)
        return bool(outputs) and (outputs[-1].finish_reason != 0 or outputs[-1].HasField("failure"))


@pytest.fixture
async def talk(stub: EngineServiceStub) -> AsyncIterator[Talk]:
    async with asyncio.timeout(60):
        talk = Talk(stub)
        yield talk
        talk.close()
        await until_idle(stub)


async def until_idle(stub: EngineServiceStub) -> None:
    while True:
        load = (await stub.GetEngineInfo(GetEngineInfoRequest())).load
        if load.running + load.waiting == 0:
            return
        await asyncio.sleep(0.01)


async def test_a_sequence_is_accepted_first_and_ends_at_its_length(talk: Talk) -> None:
    await talk.submit(1, max_tokens=6)
    [last] = await talk.end(1)
    first, *others = talk.outputs[1]
    assert first.HasField("accepted")
    assert not any(output.HasField("accepted") for output in others)
    assert last.finish_reason == LENGTH
    assert last.HasField("timings")
    assert len(talk.tokens(1)) == 6
    assert (talk.load.max_running, talk.load.max_waiting) == (MAX_RUNNING, MAX_WAITING)
    assert talk.load.kv_capacity_bytes > 0


async def test_many_share_the_stream_and_each_gets_what_it_would_alone(talk: Talk) -> None:
    prompts = {number: [number, number + 1, number + 2] for number in range(1, 5)}
    for number, prompt in prompts.items():
        await talk.submit(number, prompt_token_ids=prompt)
    await talk.end(*prompts)
    for number, prompt in prompts.items():
        await talk.submit(number + 10, prompt_token_ids=prompt)
        await talk.end(number + 10)
        assert talk.tokens(number + 10) == talk.tokens(number)


async def test_a_sequence_goes_on_after_tokens_made_elsewhere(talk: Talk) -> None:
    sampling = Sampling(temperature=1, seed=7)
    await talk.submit(1, max_tokens=8, sampling=sampling)
    await talk.end(1)
    whole = talk.tokens(1)
    await talk.submit(2, max_tokens=8, sampling=sampling, generated_token_ids=whole[:3])
    [last] = await talk.end(2)
    assert whole[:3] + talk.tokens(2) == whole
    assert last.finish_reason == LENGTH


async def test_a_stop_token_is_the_last_token(talk: Talk) -> None:
    await talk.submit(1, max_tokens=5)
    await talk.end(1)
    stop = talk.tokens(1)[2]
    await talk.submit(2, max_tokens=5, stop_token_ids=[stop])
    [last] = await talk.end(2)
    first = talk.tokens(1).index(stop)
    assert talk.tokens(2) == talk.tokens(1)[: first + 1]
    assert last.finish_reason == STOP


async def test_cancel_ends_one_and_leaves_the_others(talk: Talk) -> None:
    await talk.submit(1, max_tokens=900)
    await talk.submit(2, max_tokens=20)
    await talk.until_tokens(1)
    await talk.cancel(1)
    cancelled, ended = await talk.end(1, 2)
    assert cancelled.finish_reason == CANCELLED
    assert cancelled.timings.prefill_ms + cancelled.timings.decode_ms > 0
    assert len(talk.tokens(1)) < 900
    assert ended.finish_reason == LENGTH


async def test_one_cancel_ends_several(talk: Talk) -> None:
    for sequence_id in (1, 2, 3):
        await talk.submit(sequence_id, max_tokens=900)
    await talk.submit(4, max_tokens=20)
    await talk.cancel(1, 99, 3, 2)
    *cancelled, ended = await talk.end(1, 2, 3, 4)
    assert [last.finish_reason for last in cancelled] == [CANCELLED] * 3
    assert ended.finish_reason == LENGTH


async def test_cancelling_what_is_unknown_or_ended_is_no_error(talk: Talk) -> None:
    await talk.submit(1)
    await talk.end(1)
    await talk.cancel(1)
    await talk.cancel(99)
    await talk.submit(2)
    [last] = await talk.end(2)
    assert last.finish_reason == LENGTH
    assert 99 not in talk.outputs


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"prompt_token_ids": [1, 10**6]}, "INVALID_FIELD", "prompt_token_ids[1]"),
        ({"stop_token_ids": [10**6]}, "INVALID_FIELD", "stop_token_ids[0]"),
        (
            {"sampling": Sampling(logit_bias={10**6: 1.0})},
            "INVALID_FIELD",
            f"sampling.logit_bias[{10**6}]",
        ),
        ({"max_tokens": 10**6}, "CONTEXT_TOO_LONG", "max_tokens"),
    ],
)
async def test_what_the_model_cannot_take_fails_alone(
    talk: Talk, fields: dict[str, object], reason: str, field: str
) -> None:
    await talk.submit(1, **fields)
    await talk.submit(2)
    failed, good = await talk.end(1, 2)
    assert (failed.failure.reason, failed.failure.field) == (reason, field)
    assert len(talk.outputs[1]) == 1
    assert good.finish_reason == LENGTH


async def test_a_number_in_use_fails_the_new_one_alone(talk: Talk) -> None:
    await talk.submit(1, max_tokens=30)
    await talk.submit(1, max_tokens=30)
    while not any(output.HasField("failure") for output in talk.outputs.get(1, [])):
        await talk.read()
    while not any(output.finish_reason for output in talk.outputs[1]):
        await talk.read()
    [failed] = [output for output in talk.outputs[1] if output.HasField("failure")]
    assert (failed.failure.reason, failed.failure.field) == ("INVALID_FIELD", "sequence_id")
    assert len(talk.tokens(1)) == 30


async def test_a_full_queue_says_when_to_come_back(talk: Talk) -> None:
    places = MAX_RUNNING + MAX_WAITING
    for number in range(1, places + 2):
        await talk.submit(number, max_tokens=900)
    [refused] = await talk.end(places + 1)
    error = from_failure(refused.failure)
    assert error.reason == "QUEUE_FULL"
    assert error.retry_delay_s


async def test_background_sequences_take_no_place_of_others(talk: Talk) -> None:
    places = MAX_RUNNING + MAX_WAITING
    for number in range(1, places + 2):
        await talk.submit(number, max_tokens=900, background=True)
    [refused] = await talk.end(places + 1)
    assert from_failure(refused.failure).reason == "QUEUE_FULL"
    while talk.load.background_running < MAX_RUNNING:
        await talk.read()
    assert (talk.load.running, talk.load.waiting, talk.load.idle_ms) == (0, 0, 0)
    await talk.submit(places + 2, max_tokens=5)
    [ended] = await talk.end(places + 2)
    assert ended.finish_reason == engine_pb2.ENGINE_FINISH_REASON_LENGTH
    assert not any(talk.outputs[number][-1].finish_reason for number in range(1, places + 1))
    await talk.cancel(*range(1, places + 1))
    await talk.end(*range(1, places + 1))


async def test_a_background_sequence_gets_what_it_would_alone(talk: Talk) -> None:
    await talk.submit(1, max_tokens=40)
    await talk.end(1)
    await talk.submit(2, max_tokens=40, background=True)
    await talk.submit(3, max_tokens=20)
    await talk.end(2, 3)
    assert talk.tokens(2) == talk.tokens(1)


async def test_the_load_tells_how_long_the_oldest_waits_and_how_long_none_came(
    stub: EngineServiceStub, talk: Talk
) -> None:
    for number in range(1, MAX_RUNNING + MAX_WAITING + 1):
        await talk.submit(number, max_tokens=900)
    load = EngineLoad()
    while not (load.waiting and load.longest_wait_ms):
        load = (await stub.GetEngineInfo(GetEngineInfoRequest())).load
        await asyncio.sleep(0.01)
    assert load.idle_ms == 0
    await talk.cancel(*range(1, MAX_RUNNING + MAX_WAITING + 1))
    await until_idle(stub)
    while not load.idle_ms:
        await asyncio.sleep(0.01)
        load = (await stub.GetEngineInfo(GetEngineInfoRequest())).load
    assert (load.running, load.waiting, load.longest_wait_ms) == (0, 0, 0)


async def test_a_deadline_ends_a_sequence_after_what_it_has(talk: Talk) -> None:
    await talk.submit(1, max_tokens=900, timeout_ms=60)
    await talk.submit(2)
    late, good = await talk.end(1, 2)
    assert late.failure.reason == "DEADLINE_EXCEEDED"
    assert len(talk.tokens(1)) < 900
    assert good.finish_reason == LENGTH


async def test_the_end_of_a_stream_drops_its_sequences(stub: EngineServiceStub) -> None:
    talk = Talk(stub)
    await talk.submit(1, max_tokens=900)
    await talk.until_tokens(1)
    talk.close()
    async with asyncio.timeout(30):
        await until_idle(stub)


async def test_info(stub: EngineServiceStub) -> None:
    info = await stub.GetEngineInfo(GetEngineInfoRequest())
    assert (info.engine_id, info.model, info.model_version) == ("engine-1", "pocket", 1)
    assert info.vocab_size > 0
    assert info.context_tokens > 0
    assert info.device in {"cpu", "metal", "cuda"}
    assert info.load.max_running == MAX_RUNNING


async def test_memory_is_promised_for_all_that_each_may_come_to(
    stub: EngineServiceStub, talk: Talk
) -> None:
    await talk.submit(1, prompt_token_ids=[5] * 10, max_tokens=90)
    await talk.until_tokens(1)
    one = talk.load.kv_reserved_bytes
    assert one > 0
    assert one % 100 == 0
    await talk.submit(2, prompt_token_ids=[5] * 50, max_tokens=250)
    await talk.until_tokens(2)
    assert talk.load.kv_reserved_bytes in (4 * one, 3 * one)  # the first may have ended
    await talk.cancel(2)
    await talk.end(1, 2)
    load = (await stub.GetEngineInfo(GetEngineInfoRequest())).load
    while load.running:
        await asyncio.sleep(0.01)
        load = (await stub.GetEngineInfo(GetEngineInfoRequest())).load
    assert load.kv_reserved_bytes == 0


def joined(outputs: list[SequenceOutput], field: str) -> engine_pb2.Logprobs:
    whole = engine_pb2.Logprobs()
    for output in outputs:
        whole.MergeFrom(getattr(output, field))
    return whole


async def test_logprobs_of_the_prompt_and_of_every_token(talk: Talk) -> None:
    prompt = list(range(5, 25))
    options = engine_pb2.LogprobOptions(top=3, prompt=True)
    await talk.submit(1, prompt_token_ids=prompt, logprobs=options)
    await talk.submit(2, prompt_token_ids=prompt)
    await talk.end(1, 2)
    first_token = next(at for at, each in enumerate(talk.outputs[1]) if each.token_ids)
    later = talk.outputs[1][first_token + 1 :]
    assert not any(each.HasField("prompt_logprobs") for each in later)
    for field, count in (("prompt_logprobs", len(prompt) - 1), ("logprobs", 5)):
        found = joined(talk.outputs[1], field)
        assert (len(found.chosen), len(found.top)) == (count, 3 * count)
        assert len(found.top_token_ids) == len(found.top)
        assert max(found.chosen) <= 0
        assert list(found.top[:3]) == sorted(found.top[:3], reverse=True)
        assert not joined(talk.outputs[2], field).chosen
    for output in talk.outputs[1]:
        assert len(output.logprobs.chosen) == len(output.token_ids)


async def test_sequences_that_share_a_prompt_get_what_each_would_alone(talk: Talk) -> None:
    prompt = list(range(5, 45))
    samplings = {number: Sampling(temperature=1.0, seed=number) for number in range(1, 5)}
    for number, sampling in samplings.items():
        shared = {"shares_prefill_of": 1} if number > 1 else {}
        await talk.submit(number, prompt_token_ids=prompt, sampling=sampling, **shared)
    await talk.end(*samplings)
    for number, sampling in samplings.items():
        await talk.submit(number + 10, prompt_token_ids=prompt, sampling=sampling)
        await talk.end(number + 10)
        assert talk.tokens(number + 10) == talk.tokens(number)

"""Generations as jobs: what is stored is what a caller would have got, whatever is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import (
    FINISH_REASON_LENGTH,
    AttachGenerationRequest,
    GenerateResponse,
    Logprobs,
)
from mlxmesh.job.v1 import worker_pb2
from mlxmesh_shared.rpc.caller import CALLER_METADATA, OWNER_METADATA
from tests.fakes.job_service import OWNER, FakeJob
from tests.fakes.waiting import until
from tests.integration.generation.harness import generation_service
from tests.integration.worker.harness import (
    Rig,
    generation_instance,
    running_rig,
    running_worker,
)

OF_OWNER = ((OWNER_METADATA, OWNER.owner), (CALLER_METADATA, OWNER.share))


@pytest.fixture
async def rig(tmp_path: Path, tokenizer_dir: Path) -> AsyncIterator[Rig]:
    async with running_rig(tmp_path, tokenizer_dir) as running:
        yield running


def text_of(messages: list[GenerateResponse], index: int = 0) -> str:
    deltas = (each.delta for each in messages)
    return "".join(delta.text for delta in deltas if delta.index == index)


def tokens_of(messages: list[GenerateResponse], index: int = 0) -> list[int]:
    deltas = [each.delta for each in messages if each.delta.index == index]
    return [token for delta in deltas for token in delta.token_ids]


def logprobs_of(messages: list[GenerateResponse], index: int = 0) -> list[bytes]:
    deltas = [each.delta for each in messages if each.delta.index == index]
    return [one.SerializeToString() for delta in deltas for one in delta.logprobs]


def assert_same(job: FakeJob, expected: list[GenerateResponse], outputs: int = 1) -> None:
    """The stored stream is the expected one, divided otherwise."""
    for index in range(outputs):
        assert job.tokens(index) == tokens_of(expected, index)
        assert job.text(index) == text_of(expected, index)
        assert logprobs_of(job.outputs, index) == logprobs_of(expected, index)
    assert [each.sequence for each in job.outputs] == list(range(1, len(job.outputs) + 1))
    assert job.outputs[0].HasField("started")
    assert sum(each.HasField("started") for each in job.outputs) == 1
    finished = [each.finished for each in job.outputs if each.HasField("finished")]
    assert sorted(each.index for each in finished) == list(range(outputs))
    assert job.outputs[-1].finished.HasField("total_usage")
    assert [len(job.results), job.results[0].generation.messages] == [1, len(job.outputs)]


async def until_stored(job: FakeJob, tokens: int) -> None:
    await until(lambda: len(job.tokens()) >= tokens)


async def test_a_generation_is_stored_as_a_caller_would_get_it(rig: Rig) -> None:
    expected = await rig.expected()
    async with running_worker(rig):
        job = rig.generate()
        await rig.ended(job)
    assert_same(job, expected)
    assert len(job.outputs) < len(expected)
    used = job.results[0].used
    assert (used.model, used.model_version, used.completion_tokens) == ("pocket", 1, 200)
    assert used.prompt_tokens == expected[-1].finished.usage.prompt_tokens
    assert job.progress[-1].done == 200
    assert job.progress[-1].fraction == 1


async def test_a_killed_worker_is_replaced_at_the_next_token(rig: Rig) -> None:
    expected = await rig.expected()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running_worker(rig))
        job = rig.generate()
        await until_stored(job, 50)
        rig.mesh.engine.may_step.clear()
        await stack.aclose()
        first_session = job.session
        rig.jobs.end_session(first_session)
        rig.mesh.engine.may_step.set()
    async with running_worker(rig, "worker-2"):
        await rig.ended(job)
    assert_same(job, expected)
    assert job.attempt == 2
    assert len(rig.mesh.engine.submits) == 2, "the second attempt goes on with the generation"


@pytest.mark.parametrize("outputs", [1, 3])
async def test_it_is_generated_again_where_the_generation_is_gone_too(
    rig: Rig, tmp_path: Path, outputs: int
) -> None:
    fields = {"n": outputs, "logprobs": Logprobs(top=2, prompt=True)}
    expected = await rig.expected(**fields)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running_worker(rig))
        job = rig.generate(**fields)
        await until_stored(job, 50)
        await stack.aclose()
        rig.jobs.end_session(job.session)
    await rig.registry.deregister(generation_instance(""))
    async with generation_service(rig.registry, tmp_path / "other") as server:
        await rig.registry.register(generation_instance(server.address, "generation-2"))
        async with running_worker(rig, "worker-2"):
            await rig.ended(job)
    assert_same(job, expected, outputs)
    prompt = [one for each in job.outputs for one in each.prompt_logprobs.tokens]
    assert prompt == [one for each in expected for one in each.prompt_logprobs.tokens]


async def test_a_lost_generation_instance_is_replaced_within_the_attempt(
    rig: Rig, tmp_path: Path
) -> None:
    expected = await rig.expected()
    async with AsyncExitStack() as stack:
        await rig.registry.deregister(generation_instance(""))
        first = await stack.enter_async_context(
            generation_service(rig.registry, tmp_path / "other")
        )
        await rig.registry.register(generation_instance(first.address, "generation-2"))
        async with running_worker(rig):
            job = rig.generate()
            await until_stored(job, 50)
            await rig.registry.register(generation_instance(rig.mesh.server.address))
            await stack.aclose()
            await rig.ended(job)
    assert_same(job, expected)
    assert job.attempt == 1
    assert not job.failures


async def test_the_owner_reads_it_while_the_job_stores_it(rig: Rig) -> None:
    expected = await rig.expected()
    async with running_worker(rig):
        job = rig.generate()
        await until_stored(job, 20)
        attach = AttachGenerationRequest(request_id="job-1")
        call = rig.mesh.stub.AttachGeneration(attach, metadata=OF_OWNER)
        read = [response.message async for response in call]
        await rig.ended(job)
    assert tokens_of(read) == tokens_of(expected)
    assert_same(job, expected)


async def test_a_cancelled_job_frees_the_engine(rig: Rig) -> None:
    async with running_worker(rig):
        job = rig.generate(max_tokens=900)
        await until_stored(job, 20)
        rig.jobs.cancel("job-1")
        await rig.ended(job, "cancelled")
        await until(lambda: rig.mesh.engine.sequences == 0)
    assert len(job.tokens()) < 900
    assert not job.results


async def test_an_attempt_that_takes_too_long_frees_the_engine(rig: Rig) -> None:
    rig.jobs.retries = False
    rig.mesh.engine.options.step_s = 0.01
    async with running_worker(rig):
        job = rig.generate(max_tokens=900, timeout_ms=500)
        await rig.ended(job, "failed")
        await until(lambda: rig.mesh.engine.sequences == 0)
    assert job.failures[0].fault == worker_pb2.FAULT_TIMEOUT
    assert job.failures[0].failure.reason == "DEADLINE_EXCEEDED"


async def test_a_request_that_is_wrong_is_the_jobs_fault(rig: Rig) -> None:
    rig.jobs.retries = False
    async with running_worker(rig):
        unknown = rig.generate("job-1", model="nobody")
        long = rig.generate("job-2", max_tokens=5000)
        await rig.ended(unknown, "failed")
        await rig.ended(long, "failed")
    reasons = [job.failures[0].failure.reason for job in (unknown, long)]
    assert reasons == ["MODEL_NOT_FOUND", "CONTEXT_TOO_LONG"]
    assert {job.failures[0].fault for job in (unknown, long)} == {worker_pb2.FAULT_JOB}


async def test_a_job_that_finds_no_room_is_tried_again(rig: Rig) -> None:
    from mlxmesh_shared.errors import QueueFull

    expected = await rig.expected()
    rig.mesh.engine.refuse_next.append(QueueFull("full"))
    async with running_worker(rig):
        job = rig.generate()
        await rig.ended(job)
    assert [each.fault for each in job.failures] == [worker_pb2.FAULT_SERVICE_UNAVAILABLE]
    assert_same(job, expected)


async def test_a_generation_that_was_cancelled_before_is_not_gone_on_with(rig: Rig) -> None:
    """An attempt that was given up leaves nothing that the next one could take for its own."""
    expected = await rig.expected()
    rig.mesh.engine.options.step_s = 0.005
    async with running_worker(rig):
        job = rig.generate(timeout_ms=400)
        await until(lambda: len(job.failures) == 1)
        rig.mesh.engine.options.step_s = 0.0005
        await rig.ended(job)
    assert_same(job, expected)
    assert job.outputs[-1].finished.finish_reason == FINISH_REASON_LENGTH


async def test_jobs_run_beside_each_other(rig: Rig) -> None:
    async with running_worker(rig, slots=4):
        jobs = [
            rig.generate(f"job-{number}", sampling=Sampling(seed=number, temperature=1))
            for number in range(12)
        ]
        await asyncio.gather(*map(rig.ended, jobs))
    for number, job in enumerate(jobs):
        expected = await rig.expected(sampling=Sampling(seed=number, temperature=1))
        assert_same(job, expected)
    sessions = rig.jobs.sessions.values()
    assert [session.hello.slots for session in sessions] == [4]

"""Reasoning and tool calls of several outputs, through losses of engines and instances."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.engine.v1.engine_pb2 import Submit
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_gateway.forwarding.recording import Recording
from mlxmesh_generation.streams.plan import output_seed
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from tests.fakes import tokenizer_files
from tests.fakes.engine import FakeEngineOptions
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh, running_mesh
from tests.integration.generation.test_several_outputs import whole

N = 4
SEED = 3
END = 2
"""The token </s>."""
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}{{ '<|' + message.role + '|>' + (message.content or '') }}"
    "</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    "{# <think> <tool_call> #}"
)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
TEXTS = (
    f"<think>\nWhy? 日本 🫠\n</think>\n\nI look. {CALL}\n{CALL}",
    "<think>Only thoughts",
    "Plain text, of which STOP is the end, no more.",
    CALL,
)
TOOL = g.Tool(name="weather", parameters_json_schema='{"type": "object"}')


def request() -> g.GenerateRequest:
    return g.GenerateRequest(
        model="pocket",
        chat=g.ChatInput(messages=[g.ChatMessage(role=g.ROLE_USER, content="hello")]),
        max_tokens=400,
        n=N,
        tools=[TOOL],
        logprobs=g.Logprobs(top=1),
        sampling=Sampling(seed=SEED, temperature=1),
        stop=["STOP"],
    )


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    directory = tokenizer_files.byte_level(tmp_path / "files", chat_template=TEMPLATE)
    tokenizer = ModelTokenizer.load(directory)
    scripts = {
        output_seed(SEED, index): [*tokenizer.encode_rendered(text), END]
        for index, text in enumerate(TEXTS)
    }

    def choose(submit: Submit, index: int, _vocab_size: int) -> int:
        return scripts[submit.sampling.seed][index]

    options = FakeEngineOptions(eos_token_id=END, choose=choose)
    async with running_mesh(tmp_path, directory, options) as running:
        yield running


async def test_each_output_is_taken_apart(mesh: Mesh) -> None:
    response = whole(await mesh.collect(request()))
    assert response.reasoning_text.strip() == "Why? 日本 🫠"
    assert response.text.strip() == "I look."
    calls = [(call.index, call.name, call.arguments) for call in response.tool_calls]
    assert [call[:2] for call in calls] == [(0, "weather"), (1, "weather")]
    assert '"Zürich"' in calls[0][2]
    thoughts, plain, called = response.other_outputs
    assert (thoughts.reasoning_text, thoughts.text) == ("Only thoughts", "")
    assert plain.text == "Plain text, of which "
    assert plain.finished.stop_text == "STOP"
    assert [call.name for call in called.tool_calls] == ["weather"]
    reasons = [
        response.finished.finish_reason,
        *(one.finished.finish_reason for one in response.other_outputs),
    ]
    assert reasons == [
        g.FINISH_REASON_TOOL_CALLS,
        g.FINISH_REASON_STOP,
        g.FINISH_REASON_STOP,
        g.FINISH_REASON_TOOL_CALLS,
    ]
    ids = [call.id for output in (response, called) for call in output.tool_calls]
    assert len(set(ids)) == 3
    assert response.finished.usage.reasoning_tokens > 3
    assert plain.finished.usage.reasoning_tokens == 0


@pytest.mark.parametrize("steps", [1, 5, 20, 45, 60, 75])
async def test_engines_may_be_lost_anywhere(mesh: Mesh, steps: int) -> None:
    asked = request()
    asked.request_id = "the-same-ids"
    undisturbed = whole(await mesh.collect(asked))
    await mesh.stub.CancelGeneration(
        g.CancelGenerationRequest(request_id=asked.request_id, forget=True)
    )
    mesh.engine.options.step_s = 0.01
    stream = asyncio.create_task(mesh.collect(asked))
    await until(lambda: mesh.engine.sequences > 0)
    until_step = mesh.engine.steps + steps
    await until(lambda: mesh.engine.steps >= until_step)
    mesh.engine.break_streams()
    assert whole(await stream) == undisturbed


async def test_another_instance_continues_at_every_message(mesh: Mesh) -> None:
    messages = await mesh.collect(request())
    undisturbed = whole(list(messages))
    for cut in range(1, len(messages), 6):
        recording = Recording()
        for message in messages[:cut]:
            recording.add(message.SerializeToString())
        resume = recording.resume_request(request())
        rest = [answer.message async for answer in mesh.stub.ResumeGeneration(resume)]
        assert whole(messages[:cut] + rest) == undisturbed, cut

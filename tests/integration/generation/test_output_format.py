"""From a request with tools, reasoning or a constraint to what template and engine get."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mlxmesh.engine.v1.engine_pb2 import Submit
from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_shared.errors import FeatureNotSupported, IllegalState, MeshError
from tests.fakes import tokenizer_files
from tests.integration.generation.harness import Mesh, pocket, running_mesh

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}{{ '<|' + message.role + '|>' + (message.content or '') }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ '<tool_call>' + call.function.name + call.function.arguments + '</tool_call>' }}"
    "{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
OPENS = "{{ messages[0].content }}<think>\n"
SCHEMA = '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'
WEATHER = pb.Tool(name="weather", description="Tells it.", parameters_json_schema=SCHEMA)


def asking(**changes: object) -> pb.GenerateRequest:
    turn = pb.ChatMessage(role=pb.ROLE_USER, content="hello")
    request = pb.GenerateRequest(model="pocket", chat=pb.ChatInput(messages=[turn]), max_tokens=4)
    request.MergeFrom(pb.GenerateRequest(**changes))  # pyright: ignore[reportArgumentType]
    return request


@pytest.fixture(scope="session")
def template_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer") / "tools"
    return tokenizer_files.byte_level(directory, chat_template=TEMPLATE)


@pytest.fixture
async def mesh(tmp_path: Path, template_dir: Path) -> AsyncIterator[Mesh]:
    async with running_mesh(tmp_path, template_dir) as running:
        yield running


async def submitted(mesh: Mesh, request: pb.GenerateRequest) -> Submit:
    await mesh.collect(request)
    return mesh.engine.submits[-1]


async def refusal(mesh: Mesh, request: pb.GenerateRequest) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await mesh.collect(request)
    return caught.value


async def format_of(mesh: Mesh) -> pb.GetOutputFormatResponse:
    return await mesh.stub.GetOutputFormat(pb.GetOutputFormatRequest(model="pocket"))


async def test_the_formats_of_a_model_are_told_with_reasons(mesh: Mesh) -> None:
    assert await format_of(mesh) == pb.GetOutputFormatResponse(
        tool_format="hermes",
        tool_reason="the chat template contains <tool_call>",
        reasoning_format="think",
        reasoning_reason="the chat template contains <think>",
        reasoning_switch=True,
    )


async def test_a_setting_counts_at_once(mesh: Mesh) -> None:
    await format_of(mesh)
    mesh.models.put(pocket(tool_format="json", reasoning_format="none"))

    async def is_set() -> bool:
        return (await format_of(mesh)).tool_format == "json"

    async with asyncio.timeout(30):
        while not await is_set():
            await asyncio.sleep(0.01)
    told = await format_of(mesh)
    assert told.tool_reason == "it is set for this model"
    assert (told.reasoning_format, told.reasoning_reason) == (
        "",
        "it is set to none for this model",
    )


async def test_an_unknown_setting_is_refused_when_it_is_used(
    tmp_path: Path, template_dir: Path
) -> None:
    model = pocket(tool_format="hermse")
    async with running_mesh(tmp_path, template_dir, model=model) as mesh:
        assert await submitted(mesh, asking())
        error = await refusal(mesh, asking(tools=[WEATHER]))
        assert isinstance(error, IllegalState)
        assert "hermse" in error.message
        assert "hermes" in error.message
        with pytest.raises(IllegalState, match="hermse"):
            await format_of(mesh)


async def test_tools_are_in_the_prompt_and_counted(mesh: Mesh) -> None:
    plain = await submitted(mesh, asking())
    with_tools = await submitted(mesh, asking(tools=[WEATHER]))
    assert len(with_tools.prompt_token_ids) > len(plain.prompt_token_ids)
    assert not with_tools.HasField("constraint")
    count = pb.CountTokensRequest(
        model="pocket", chat=asking().chat, tools=[WEATHER], return_token_ids=True
    )
    counted = await mesh.stub.CountTokens(count)
    assert list(counted.token_ids) == list(with_tools.prompt_token_ids)


async def test_reasoning_is_counted(mesh: Mesh) -> None:
    off = pb.Reasoning(enabled=False)
    request = asking(reasoning=off)
    submit = await submitted(mesh, request)
    count = pb.CountTokensRequest(model="pocket", chat=request.chat, reasoning=off)
    assert (await mesh.stub.CountTokens(count)).tokens == len(submit.prompt_token_ids)
    assert len(submit.prompt_token_ids) > len((await submitted(mesh, asking())).prompt_token_ids)


async def test_required_tools_are_a_grammar_without_reasoning(mesh: Mesh) -> None:
    choice = pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED)
    submit = await submitted(mesh, asking(tools=[WEATHER], tool_choice=choice))
    assert "weather" in submit.constraint.lark
    assert not submit.constraint.HasField("prefix")
    off = asking(tools=[WEATHER], reasoning=pb.Reasoning(enabled=False))
    assert submit.prompt_token_ids == (await submitted(mesh, off)).prompt_token_ids


async def test_a_constraint_begins_after_reasoning_that_was_asked_for(mesh: Mesh) -> None:
    on = pb.Reasoning(enabled=True, budget_tokens=9)
    submit = await submitted(mesh, asking(json_object=pb.JsonObject(), reasoning=on))
    assert submit.constraint.json_schema == '{"type": "object"}'
    assert submit.constraint.prefix.max_tokens == 9
    assert submit.constraint.prefix.end_token_ids
    submit = await submitted(mesh, asking(json_object=pb.JsonObject()))
    assert not submit.constraint.HasField("prefix")


async def test_strict_tools_wait_for_the_reasoning_that_the_template_means(mesh: Mesh) -> None:
    strict = pb.Tool(name="weather", strict=True)
    submit = await submitted(mesh, asking(tools=[strict]))
    assert submit.constraint.lark
    assert submit.constraint.prefix.end_token_ids
    assert not submit.constraint.prefix.HasField("max_tokens")


async def test_a_prompt_is_constrained_from_its_first_token(mesh: Mesh) -> None:
    request = pb.GenerateRequest(model="pocket", prompt="hello", regex="a+", max_tokens=2)
    submit = await submitted(mesh, request)
    assert submit.constraint.regex == "a+"
    assert not submit.constraint.HasField("prefix")


async def test_reasoning_that_the_prompt_opens_comes_before_the_answer(tmp_path: Path) -> None:
    directory = tokenizer_files.byte_level(tmp_path / "opens", chat_template=OPENS)
    async with running_mesh(tmp_path / "data", directory) as mesh:
        submit = await submitted(mesh, asking(regex="a+"))
        assert submit.constraint.prefix.end_token_ids
        error = await refusal(mesh, asking(reasoning=pb.Reasoning(enabled=False)))
        assert (type(error), error.field) == (FeatureNotSupported, "reasoning.enabled")
        error = await refusal(mesh, asking(tools=[WEATHER]))
        assert (type(error), error.field) == (FeatureNotSupported, "tools")
        count = pb.CountTokensRequest(model="pocket", chat=asking().chat, tools=[WEATHER])
        with pytest.raises(FeatureNotSupported, match="ignores tools"):
            await mesh.stub.CountTokens(count)


async def test_a_template_that_fails_with_tools_is_an_error_about_tools(tmp_path: Path) -> None:
    source = "{% if tools %}{{ raise_exception('Only one tool') }}{% endif %}<tool_call>x"
    directory = tokenizer_files.byte_level(tmp_path / "fails", chat_template=source)
    async with running_mesh(tmp_path / "data", directory) as mesh:
        error = await refusal(mesh, asking(tools=[WEATHER]))
        assert error.field == "tools"
        assert "Only one tool" in error.message
        await mesh.collect(asking())

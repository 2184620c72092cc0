"""Constraints over an Execute stream of an engine process, real and simulated."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.engine.v1 import engine_pb2 as pb
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.engine_child import engine_child
from tests.integration.engine.test_execute import Talk

POCKET = Path(__file__).parents[3] / "deploy/demo-model/pocket-mini"
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
HOT = Sampling(temperature=1.5, seed=3)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    options = ("--constraint-compile-timeout-s", "1", "--constraint-max-depth", "8")
    with engine_child(tmp_path_factory.mktemp("engine"), *options, model_dir=POCKET) as address:
        yield address


@pytest.fixture
async def talk(address: str) -> AsyncIterator[Talk]:
    async with open_channel(address) as channel:
        talk = Talk(EngineServiceStub(channel).Execute())
        yield talk
        talk.call.cancel()


def text(tokens: list[int]) -> str:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(POCKET / "tokenizer.json")).decode(tokens)


async def test_output_follows_the_constraint(talk: Talk) -> None:
    constraints = [
        pb.Constraint(json_schema=json.dumps(SCHEMA)),
        pb.Constraint(regex="[a-c]{3}"),
        pb.Constraint(lark='start: "[" /[0-9]/ "]"'),
        pb.Constraint(choices=pb.ConstraintChoices(texts=["left", "right"])),
    ]
    for number, constraint in enumerate(constraints, 1):
        await talk.submit(number, constraint=constraint, sampling=HOT, max_tokens=200)
        last = await talk.end(number)
        assert last.finish_reason == pb.ENGINE_FINISH_REASON_STOP
    jsonschema.validate(json.loads(text(talk.tokens[1])), SCHEMA)
    assert set(text(talk.tokens[2])) <= set("abc")
    assert text(talk.tokens[3])[::2] == "[]"
    assert text(talk.tokens[4]) in ("left", "right")


@pytest.mark.parametrize(
    ("constraint", "reason", "field"),
    [
        (pb.Constraint(json_schema='{"not": {}}'), "CONSTRAINT_INVALID", "json_schema"),
        (pb.Constraint(regex="("), "CONSTRAINT_INVALID", "regex"),
        (pb.Constraint(lark="start: x"), "CONSTRAINT_INVALID", "lark"),
        (
            pb.Constraint(json_schema='{"items":' * 9 + "{}" + "}" * 9),
            "CONSTRAINT_TOO_COMPLEX",
            "json_schema",
        ),
        (
            pb.Constraint(json_schema='{"type": "integer", "multipleOf": 99999989}'),
            "CONSTRAINT_TOO_COMPLEX",
            "json_schema",
        ),
    ],
)
async def test_a_refused_constraint_ends_only_its_sequence(
    talk: Talk, constraint: pb.Constraint, reason: str, field: str
) -> None:
    await talk.submit(1, max_tokens=20, ignore_eos=True)
    await talk.submit(2, constraint=constraint)
    failure = (await talk.end(2)).failure
    assert (failure.code, failure.reason, failure.field) == (3, reason, f"constraint.{field}")
    await talk.submit(3, constraint=pb.Constraint(regex="ab"), sampling=HOT)
    assert (await talk.end(3)).finish_reason == pb.ENGINE_FINISH_REASON_STOP


async def test_a_cancel_while_it_compiles_answers_at_once(talk: Talk) -> None:
    slow = pb.Constraint(json_schema='{"type": "integer", "multipleOf": 99999971}')
    await talk.submit(1, constraint=slow)
    await talk.cancel(1)
    assert (await talk.end(1)).finish_reason == pb.ENGINE_FINISH_REASON_CANCELLED


async def test_a_sequence_resumes_in_the_middle_of_a_schema(talk: Talk) -> None:
    constraint = pb.Constraint(json_schema=json.dumps(SCHEMA))
    fields: dict[str, Any] = {"constraint": constraint, "sampling": HOT, "max_tokens": 200}
    await talk.submit(1, **fields)
    await talk.end(1)
    whole = talk.tokens[1]
    for number, at in enumerate((1, len(whole) // 2, len(whole) - 1), 2):
        await talk.submit(number, generated_token_ids=whole[:at], **fields)
        await talk.end(number)
        assert talk.tokens[number] == whole[at:]


async def test_a_simulated_engine_refuses_constraints_by_name(tmp_path: Path) -> None:
    with engine_child(tmp_path, "--backend", "simulated", model_dir=POCKET) as address:
        async with open_channel(address) as channel, asyncio.timeout(60):
            talk = Talk(EngineServiceStub(channel).Execute())
            await talk.submit(1, constraint=pb.Constraint(regex="a"))
            failure = (await talk.end(1)).failure
            assert (failure.reason, failure.field) == ("FEATURE_NOT_SUPPORTED", "constraint")
            talk.call.cancel()

"""Constrained rows and what is around them: restarts, joins, copies, log-probabilities."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from mlxmesh_engine.cache.kv_cache import Batching
from mlxmesh_engine.scheduling.request import (
    FinishReason,
    FreePrefix,
    GrammarKind,
    LogprobOptions,
    SequenceRequest,
)
from tests.fakes.constrained_rig import ConstrainedRig, constrained, write_text_model
from tests.fakes.engine_rig import STREAM, Rig, load_model

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "size": {"enum": [1, 20, 300]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
JSON = (GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
REGEX = (GrammarKind.REGEX, r"[a-f]{3,8}-[0-9]{2,4}")
SCRIPTS = (
    GrammarKind.CHOICES,
    json.dumps(["日本語のテキスト", "สวัสดีชาวโลก", "नमस्ते दुनिया", "naïve 🌍"]),
)
HOT: dict[str, Any] = {"temperature": 1.5}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConstrainedRig]:
    with closing(ConstrainedRig(write_text_model(tmp_path_factory.mktemp("text")))) as rig:
        yield rig


@pytest.fixture(scope="module")
def asynchronous(rig: ConstrainedRig) -> Iterator[ConstrainedRig]:
    """The same model by mlx-lm's pass, which is launched before the tokens are read."""
    loaded = load_model(rig.model_dir, cpu_forward=False)
    with closing(ConstrainedRig(rig.model_dir, loaded)) as opened:
        yield opened


@pytest.fixture(params=["rig", "asynchronous"])
def each_rig(request: pytest.FixtureRequest) -> ConstrainedRig:
    return request.getfixturevalue(request.param)


def mixed() -> list[SequenceRequest]:
    return [
        constrained(1, *JSON, seed=1, **HOT),
        constrained(2, *REGEX, seed=2, top_k=5, top_p=0.9, **HOT),
        constrained(3, max_tokens=30, seed=3, repetition_penalty=1.2, **HOT),
        constrained(4, *SCRIPTS, prefix=FreePrefix((10, 11), max_tokens=5), seed=4, **HOT),
        constrained(5, max_tokens=30),
    ]


def tokens_of(rig: Rig) -> dict[int, list[int]]:
    return {number: rig.tokens(number) for number in range(1, 6)}


def test_a_model_that_is_not_batched_gives_the_same(each_rig: ConstrainedRig) -> None:
    alone = replace(each_rig.loaded, batching=Batching.ALONE)
    expected = tokens_of(each_rig.run(*mixed()))
    assert tokens_of(each_rig.run(*mixed(), loaded=alone)) == expected


def test_isolated_rows_give_the_same(each_rig: ConstrainedRig) -> None:
    expected = tokens_of(each_rig.run(*mixed()))
    isolated = [replace(request, isolated=request.key[1] in (1, 4)) for request in mixed()]
    assert tokens_of(each_rig.run(*isolated)) == expected


@pytest.mark.parametrize("calls", [1, 3, 7, 12])
def test_a_batch_that_fails_anywhere_goes_on_token_by_token(
    each_rig: ConstrainedRig, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Also after the masks' threads have given the last tokens to the states."""
    from mlxmesh_engine.sampling.sampler import BatchSampler

    expected = tokens_of(each_rig.run(*mixed()))
    sample, left = BatchSampler.sample, iter(range(calls))

    def fail_once(self: BatchSampler, *arguments: Any) -> Any:
        if next(left, None) == calls - 1:
            raise RuntimeError("as the test wants")
        return sample(self, *arguments)

    monkeypatch.setattr(BatchSampler, "sample", fail_once)
    assert tokens_of(each_rig.run(*mixed())) == expected


def test_joining_and_leaving_constrained_rows_change_no_other(each_rig: ConstrainedRig) -> None:
    plain = [
        constrained(number, max_tokens=60, seed=number, **options)
        for number, options in enumerate(
            ({}, HOT, {**HOT, "top_p": 0.8, "top_k": 30}, {"frequency_penalty": 1.0}), 1
        )
    ]
    alone = each_rig.run(*plain)
    rig = Rig(each_rig.loaded).submit(*plain)
    for number, request in enumerate(each_rig.compiled(*mixed()), 11):
        rig.step(3)
        rig.submit(replace(request, key=(STREAM, number)))
    rig.loop.cancel((STREAM, 11))
    rig.run()
    for request in plain:
        number = request.key[1]
        assert rig.tokens(number) == alone.tokens(number)


def test_a_sequence_resumes_inside_a_character(rig: ConstrainedRig) -> None:
    for seed in range(6):
        whole = rig.run(constrained(1, *SCRIPTS, seed=seed, **HOT)).tokens(1)
        assert rig.text(whole) in json.loads(SCRIPTS[1])
        for at in range(1, len(whole)):
            head = tuple(whole[:at])
            resumed = rig.run(constrained(1, *SCRIPTS, generated=head, seed=seed, **HOT))
            assert resumed.tokens(1) == whole[at:]


def test_a_sequence_resumes_around_the_end_that_the_model_chose(rig: ConstrainedRig) -> None:
    prefix, bias = FreePrefix((10, 11)), {10: 7.0, 11: 7.0}
    request = constrained(1, *REGEX, prefix=prefix, seed=3, logit_bias=bias, **HOT)
    whole = rig.run(request).tokens(1)
    end = next(at for at in range(len(whole)) if whole[at : at + 2] == [10, 11])
    for at in range(1, end + 6):
        resumed = replace(request, generated=tuple(whole[:at]))
        assert rig.run(resumed).tokens(1) == whole[at:]


def test_copies_of_a_prompt_each_follow_their_constraint(each_rig: ConstrainedRig) -> None:
    first = constrained(1, *JSON, seed=1, **HOT)
    followers = [
        replace(constrained(n, *JSON, seed=n, **HOT), shares_prefill_of=first.key)
        for n in (2, 3, 4)
    ]
    shared = each_rig.run(first, *followers)
    for number in (1, 2, 3, 4):
        alone = each_rig.run(constrained(number, *JSON, seed=number, **HOT))
        assert shared.tokens(number) == alone.tokens(number)


def test_log_probabilities_are_those_without_the_constraint(each_rig: ConstrainedRig) -> None:
    options = LogprobOptions(top=4)
    ran = each_rig.run(
        replace(constrained(1, *REGEX), logprobs=options),
        replace(constrained(2, max_tokens=1), logprobs=options),
    )
    [own, free] = [
        next(update.logprobs for update in ran.updates[number] if update.logprobs)
        for number in (1, 2)
    ]
    assert own.top_token_ids == free.top_token_ids
    assert own.top == pytest.approx(free.top, abs=1e-4)
    assert own.chosen[0] <= free.chosen[0]


def test_a_deadline_ends_a_constrained_row_only(each_rig: ConstrainedRig) -> None:
    now = [0.0]
    requests = each_rig.compiled(*mixed())
    requests[0] = replace(requests[0], deadline_s=1.0)
    rig = Rig(each_rig.loaded, clock=lambda: now[0]).submit(*requests)
    rig.step(4)
    now[0] = 2.0
    rig.run()
    assert rig.last(1).error is not None
    assert [rig.last(n).finish_reason for n in (2, 4)] == [FinishReason.STOP] * 2

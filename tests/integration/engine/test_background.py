"""Background sequences on a real model: whatever happens to them, their tokens are the same."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxmesh_engine.scheduling.request import (
    FinishReason,
    GrammarKind,
    LogprobOptions,
    Sampling,
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
KV_TOKENS = 320


@pytest.fixture(scope="module", params=[True, False], ids=["cpu", "mlx"])
def rig(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConstrainedRig]:
    folder = write_text_model(tmp_path_factory.mktemp("text"))
    loaded = load_model(folder, cpu_forward=request.param)
    with closing(ConstrainedRig(folder, loaded)) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(rig: ConstrainedRig) -> Rig:
    """The same sequences without background, each of them alone."""
    alone = Rig(rig.loaded)
    for request in rig.compiled(*requests(rig)):
        alone.submit(request).run()
    return alone


def requests(rig: ConstrainedRig) -> list[SequenceRequest]:
    """Plain, sampled and constrained ones, some with log-probabilities, two with one prompt."""
    words = Random(5)
    vocab_size = rig.loaded.vocab_size

    def plain(number: int, prompt: int, max_tokens: int, sampling: Sampling) -> SequenceRequest:
        tokens = tuple(words.randrange(3, vocab_size) for _ in range(prompt))
        return SequenceRequest((STREAM, number), tokens, max_tokens, sampling=sampling)

    hot = Sampling(temperature=1.2, top_p=0.9, repetition_penalty=1.3, seed=7)
    scored = LogprobOptions(top=2, prompt=True)
    first = plain(6, 40, 12, hot)
    return [
        plain(1, 5, 30, Sampling()),
        replace(plain(2, 90, 20, hot), logprobs=scored),
        constrained(3, *JSON, seed=1, temperature=1.5),
        replace(constrained(4, *JSON, seed=2, temperature=1.5), logprobs=LogprobOptions(top=1)),
        plain(5, 30, 25, replace(hot, seed=9)),
        first,
        replace(
            first,
            key=(STREAM, 7),
            sampling=replace(hot, seed=8),
            shares_prefill_of=(STREAM, 6),
        ),
        plain(8, 1, 30, hot),
    ]


def ticking() -> Callable[[], float]:
    """A clock that goes on by a millisecond whenever it is read."""
    return (tick / 1000 for tick in itertools.count()).__next__


def assert_same(subject: Rig, expected: Rig, numbers: list[int]) -> None:
    for number in numbers:
        assert subject.tokens(number) == expected.tokens(number)
        assert subject.last(number).finish_reason is expected.last(number).finish_reason
        for own, others in zip(subject.logprobs(number), expected.logprobs(number), strict=True):
            assert (own is None) == (others is None)
            if own is not None and others is not None:
                assert own.chosen == pytest.approx(others.chosen, abs=1e-4)
                assert own.top_token_ids == others.top_token_ids


def test_all_in_the_background_give_the_same(rig: ConstrainedRig, expected: Rig) -> None:
    subject = Rig(rig.loaded, clock=ticking())
    every = rig.compiled(*requests(rig))
    subject.submit(*(replace(each, background=True) for each in every)).run()
    assert_same(subject, expected, list(range(1, 9)))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15)
def test_pauses_interruptions_and_lost_memory_change_no_token(
    rig: ConstrainedRig, expected: Rig, seed: int
) -> None:
    chance = Random(seed)
    subject = Rig(
        rig.loaded,
        max_running=chance.choice([2, 4, 64]),
        prefill_tokens_per_step=chance.choice([16, 512]),
        prefix_cache_bytes=chance.choice([0, 2**24]),
        kv_capacity_tokens=chance.choice([KV_TOKENS, None]),
        interrupted=lambda: chance.random() < 0.2,
        clock=ticking(),
    )
    dropped: set[int] = set()
    for each in rig.compiled(*requests(rig)):
        subject.submit(replace(each, background=chance.random() < 0.6))
        subject.step(chance.randrange(8))
        if chance.random() < 0.15:
            dropped.add(chance.randrange(1, 9))
            subject.loop.cancel((STREAM, max(dropped)))
    subject.run()
    kept = [number for number in range(1, 9) if number not in dropped]
    assert_same(subject, expected, kept)
    assert subject.loop.kv_bytes == 0
    assert (subject.scheduler.running, subject.scheduler.background_running) == (0, 0)


def test_one_that_must_give_up_its_memory_continues_exactly(
    rig: ConstrainedRig, expected: Rig
) -> None:
    every = rig.compiled(*requests(rig))
    subject = Rig(rig.loaded, kv_capacity_tokens=KV_TOKENS, clock=ticking())
    waiting = [replace(each, background=True) for each in every[:5]]
    subject.submit(*waiting).step(12)
    before = subject.scheduler.background_running
    large = replace(every[7], key=(STREAM, 9), max_tokens=KV_TOKENS - 1)
    subject.submit(large).step()
    assert subject.scheduler.running == 1
    assert subject.scheduler.background_running < before
    assert subject.updates.get(9)
    subject.loop.cancel((STREAM, 9))
    subject.run()
    assert_same(subject, expected, [1, 2, 3, 4, 5])


def test_it_is_paused_while_a_prompt_is_prefilled(rig: ConstrainedRig) -> None:
    background, long = rig.compiled(*requests(rig))[:2]
    subject = Rig(rig.loaded, prefill_tokens_per_step=10, clock=ticking())
    subject.submit(replace(background, background=True)).step(4)
    (row,) = subject.scheduler
    launched = row.launched
    subject.submit(long)
    while subject.scheduler.waiting or subject.scheduler.prefilling:
        subject.step()
        assert row.launched <= launched + 1  # one step may have been launched before
    subject.run()


def test_a_pass_that_is_always_interrupted_runs_in_the_end(
    rig: ConstrainedRig, expected: Rig
) -> None:
    subject = Rig(rig.loaded, interrupted=lambda: True, clock=ticking())
    (first, *_) = rig.compiled(*requests(rig))
    subject.submit(replace(first, background=True)).run()
    assert_same(subject, expected, [1])


def test_a_cancelled_one_frees_its_row_while_it_pauses(rig: ConstrainedRig) -> None:
    background, other = rig.compiled(*requests(rig))[:2]
    subject = Rig(rig.loaded)
    subject.submit(replace(background, background=True)).step(3)
    subject.submit(other).step()
    subject.loop.cancel(background.key)
    subject.step()
    assert subject.last(1).finish_reason is FinishReason.CANCELLED
    assert subject.scheduler.background_running == 0
    subject.run()

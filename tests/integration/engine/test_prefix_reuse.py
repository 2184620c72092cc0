"""Prompts with cached prefixes: the output is the same, with less prefill."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlxmesh_engine.cache.prefix_cache import BLOCK_TOKENS
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.request import Sampling, SequenceRequest
from tests.fakes.engine_rig import STREAM, Rig, load_model, scores_after
from tests.fakes.reference_sampling import contest
from tests.fakes.tiny_model import VOCAB_SIZE, mx, write_model

# Rounding alone may swap two scores that are closer than this.
_ROUNDING = 1e-4
MIB = 2**20
GREEDY = Sampling()
SEEDED = Sampling(temperature=0.9, top_p=0.9, repetition_penalty=1.2, seed=5)


@pytest.fixture(scope="module", params=[True, False], ids=["cpu", "mlx"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(write_model(tmp_path_factory.mktemp("plain")), cpu_forward=request.param)


def text(number: int, tokens: int) -> tuple[int, ...]:
    draw = np.random.default_rng(number).integers(3, VOCAB_SIZE, tokens)
    return tuple(int(token) for token in draw)


def ask(
    number: int, prompt: tuple[int, ...], *, max_tokens: int = 8, sampling: Sampling = GREEDY
) -> SequenceRequest:
    return SequenceRequest((STREAM, number), prompt, max_tokens, sampling=sampling)


def cached(rig: Rig, number: int) -> int:
    """The last update's number of cached prompt tokens."""
    emitted = [update.cached_tokens for update in rig.updates[number]]
    return [tokens for tokens in emitted if tokens is not None][-1]


def rig_of(
    loaded: LoadedModel,
    *,
    prefix_cache_bytes: int = 64 * MIB,
    max_running: int = 64,
    prefill_tokens_per_step: int = 512,
) -> Rig:
    return Rig(
        loaded,
        max_running=max_running,
        prefill_tokens_per_step=prefill_tokens_per_step,
        prefix_cache_bytes=prefix_cache_bytes,
    )


def assert_as_without_cache(loaded: LoadedModel, rig: Rig, *asked: SequenceRequest) -> None:
    """The rig's tokens equal those of an engine without a prefix cache, except for rounding."""
    for each in asked:
        alone = Rig(loaded).submit(each).run().tokens(each.key[1])
        here = rig.tokens(each.key[1])
        assert len(alone) == len(here)
        for index, pair in enumerate(zip(alone, here, strict=True)):
            if pair[0] != pair[1]:
                output = alone[:index]
                scores = scores_after(loaded, [*each.prompt, *output])[-1]
                race = contest(scores, each.sampling, prompt=each.prompt, output=output)
                assert abs(race[pair[0]] - race[pair[1]]) < _ROUNDING
                break


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
def test_a_shared_prefix_is_prefilled_once(loaded: LoadedModel, sampling: Sampling) -> None:
    shared = text(1, 1000)
    rig = rig_of(loaded)
    first = ask(1, (*shared, *text(2, 20)), sampling=sampling)
    rig.submit(first).run()
    assert cached(rig, 1) == 0
    second = ask(2, (*shared, *text(3, 30)), sampling=sampling)
    rig.submit(second).run()
    assert 1000 - BLOCK_TOKENS < cached(rig, 2) <= 1000
    assert_as_without_cache(loaded, rig, first, second)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
def test_a_conversation_prefills_only_its_new_turn(loaded: LoadedModel, sampling: Sampling) -> None:
    rig = rig_of(loaded)
    conversation = text(1, 200)
    turns: list[SequenceRequest] = []
    for number in range(1, 5):
        turns.append(ask(number, conversation, max_tokens=50, sampling=sampling))
        rig.submit(turns[-1]).run()
        before = len(turns[-2].prompt) + 50 if number > 1 else 0
        assert before - BLOCK_TOKENS <= cached(rig, number) <= before
        conversation = (*conversation, *rig.tokens(number), *text(number + 100, 40))
    assert_as_without_cache(loaded, rig, *turns)


def test_a_repeated_prompt_prefills_only_its_last_token(loaded: LoadedModel) -> None:
    prompt = text(1, 4 * BLOCK_TOKENS)
    rig = rig_of(loaded).submit(ask(1, prompt)).run()
    rig.submit(ask(2, prompt)).run()
    assert cached(rig, 2) == 3 * BLOCK_TOKENS
    # All tokens but the last are cached, so that nothing is left for the prefill.
    rig.submit(ask(3, (*prompt, 7))).run()
    assert cached(rig, 3) == 4 * BLOCK_TOKENS
    assert rig.tokens(2) == rig.tokens(1)
    assert_as_without_cache(loaded, rig, ask(3, (*prompt, 7)))


def test_different_prefixes_and_none_are_prefilled_in_one_batch(loaded: LoadedModel) -> None:
    rig = rig_of(loaded)
    beginnings = [text(number, 64 * number) for number in range(1, 6)]
    rig.submit(*(ask(number, each) for number, each in enumerate(beginnings, start=1))).run()
    asked = [
        ask(10 + number, (*each, *text(50 + number, 20 + number)), sampling=SEEDED)
        for number, each in enumerate([*beginnings, *beginnings, (), ()])
    ]
    rig.submit(*asked).run()
    assert [cached(rig, each.key[1]) for each in asked] == [
        64, 128, 192, 256, 320, 64, 128, 192, 256, 320, 0, 0,
    ]  # fmt: skip
    assert_as_without_cache(loaded, rig, *asked)


def test_namespaces_share_no_prefix(loaded: LoadedModel) -> None:
    prompt = text(1, 3 * BLOCK_TOKENS + 1)
    rig = rig_of(loaded)
    asked = [
        replace(ask(number, prompt), prefix_namespace=namespace)
        for number, namespace in enumerate((b"", b"one", b"other", b"one"), start=1)
    ]
    for each in asked:
        rig.submit(each).run()
    assert [cached(rig, number) for number in (1, 2, 3, 4)] == [0, 0, 0, 96]


def test_the_rest_of_a_prompt_is_prefilled_in_slices(loaded: LoadedModel) -> None:
    rig = rig_of(loaded, prefill_tokens_per_step=10)
    shared = text(1, 96)
    rig.submit(ask(1, (*shared, 5))).run()
    asked = ask(2, (*shared, *text(2, 75)))
    rig.submit(asked).run()
    assert cached(rig, 2) == 96
    read = [update.prefilled_tokens for update in rig.updates[2] if update.prefilled_tokens]
    assert read == [106, 116, 126, 136, 146, 156, 166, 171]
    assert_as_without_cache(loaded, rig, asked)


def test_a_waiting_sequence_finds_prefixes_stored_in_the_meantime(loaded: LoadedModel) -> None:
    shared = text(1, 256)
    rig = rig_of(loaded, max_running=1)
    asked = [ask(number, (*shared, number)) for number in (1, 2, 3)]
    rig.submit(*asked).run()
    assert [rig.updates[number][0].cached_tokens for number in (1, 2, 3)] == [0, 0, 0]
    assert [cached(rig, number) for number in (1, 2, 3)] == [0, 256, 256]
    assert_as_without_cache(loaded, rig, *asked)
    assert (rig.loop.prompt_tokens, rig.loop.cached_prompt_tokens) == (3 * 257, 2 * 256)


def test_the_tokens_of_a_cancelled_sequence_are_stored(loaded: LoadedModel) -> None:
    rig = rig_of(loaded).submit(ask(1, text(1, 100), max_tokens=500))
    rig.step(80)
    rig.loop.cancel((STREAM, 1))
    rig.step()
    asked = ask(2, (*text(1, 100), *rig.tokens(1), 9))
    rig.submit(asked).run()
    assert cached(rig, 2) >= 100 + len(rig.tokens(1)) - BLOCK_TOKENS
    assert_as_without_cache(loaded, rig, asked)


def test_a_resumed_sequence_also_finds_its_output(
    loaded: LoadedModel,
) -> None:
    prompt = text(1, 64)
    rig = rig_of(loaded).submit(ask(1, prompt, max_tokens=80)).run()
    half = tuple(rig.tokens(1)[:40])
    rig.submit(SequenceRequest((STREAM, 2), prompt, 80, half)).run()
    assert [*half, *rig.tokens(2)] == rig.tokens(1)
    # Only of the prompt, without the generated tokens.
    assert cached(rig, 2) == 64


def test_the_cache_is_bounded_and_evicted_prefixes_are_prefilled_again(loaded: LoadedModel) -> None:
    # 2 layers, 2 heads of 16 numbers of 4 bytes, keys and values: 512 bytes per token.
    budget = 10 * BLOCK_TOKENS * 512
    rig = rig_of(loaded, prefix_cache_bytes=budget, max_running=2)
    asked = [ask(number, text(number, 4 * BLOCK_TOKENS + 1)) for number in range(1, 9)]
    rig.submit(*asked)
    for _ in range(200):
        rig.step()
        assert rig.loop.prefix_bytes <= budget
    again = [ask(20, asked[0].prompt), ask(21, asked[-1].prompt)]
    rig.submit(*again).run()
    assert [cached(rig, 20), cached(rig, 21)] == [0, 4 * BLOCK_TOKENS]
    assert rig.tokens(20) == rig.tokens(1)
    assert rig.tokens(21) == rig.tokens(8)


def test_a_cached_prefix_is_not_changed_by_its_users(loaded: LoadedModel) -> None:
    shared = text(1, 128)
    rig = rig_of(loaded).submit(ask(1, (*shared, 5))).run()
    asked = [ask(number, (*shared, *text(number, 9)), max_tokens=40) for number in range(2, 8)]
    for each in asked:
        rig.submit(each).step(3)
    rig.run()
    last = ask(9, (*shared, 5))
    rig.submit(last).run()
    assert rig.tokens(9) == rig.tokens(1)
    assert_as_without_cache(loaded, rig, *asked)


def test_a_narrow_precision_is_stored_unchanged(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_model(tmp_path_factory.mktemp("half"), dtype=mx.bfloat16)
    half = load_model(path, dtype="as_shipped")
    prompt = text(1, 100)
    rig = rig_of(half).submit(ask(1, prompt)).run()
    rig.submit(ask(2, prompt)).run()
    assert cached(rig, 2) == 96
    assert rig.loop.prefix_bytes == 96 * 256


def sliding_model(folder: Path) -> Path:
    types = ["sliding_attention", "full_attention"]
    return write_model(folder, layer_types=types, sliding_window=24)


def test_prefixes_of_a_model_with_sliding_windows_are_reused(tmp_path: Path) -> None:
    sliding = load_model(sliding_model(tmp_path))
    shared = text(1, 100)
    asked = [ask(number, (*shared, number)) for number in range(1, 4)]
    rig = rig_of(sliding).submit(asked[0]).run()
    rig.submit(*asked[1:]).run()
    assert cached(rig, 2) == 96
    assert_as_without_cache(sliding, rig, *asked)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """By mlx-lm: its caches of windows cannot be cut."""
    return load_model(sliding_model(tmp_path_factory.mktemp("windows")), cpu_forward=False)


def test_a_conversation_goes_on_after_a_state(windowed: LoadedModel) -> None:
    rig = rig_of(windowed)
    conversation = text(1, 100)
    turns: list[SequenceRequest] = []
    for number in range(1, 4):
        turns.append(ask(number, conversation, max_tokens=40))
        rig.submit(turns[-1]).run()
        # All but the last token of output, which no step has processed.
        assert cached(rig, number) == (len(turns[-2].prompt) + 39 if number > 1 else 0)
        conversation = (*conversation, *rig.tokens(number), *text(number + 100, 40))
    assert_as_without_cache(windowed, rig, *turns)


def test_where_prompts_part_the_second_one_leaves_a_state(windowed: LoadedModel) -> None:
    shared = text(1, 100)
    asked = [ask(number, (*shared, *text(number, 10 + number))) for number in range(1, 6)]
    rig = rig_of(windowed)
    for each in asked[:3]:
        rig.submit(each).run()
    rig.submit(*asked[3:]).run()
    # 96 are the whole blocks of the 100 tokens that they have in common.
    assert [cached(rig, number) for number in range(1, 6)] == [0, 0, 96, 96, 96]
    assert_as_without_cache(windowed, rig, *asked)


def test_a_state_is_not_changed_by_those_who_begin_with_it(windowed: LoadedModel) -> None:
    prompt = text(1, 80)
    rig = rig_of(windowed).submit(ask(1, prompt, max_tokens=30)).run()
    asked = [ask(number, (*prompt, number), max_tokens=30) for number in range(2, 6)]
    for each in asked:
        rig.submit(each).step(3)
    rig.run()
    rig.submit(ask(9, prompt, max_tokens=30)).run()
    assert cached(rig, 9) == 79
    assert rig.tokens(9) == rig.tokens(1)
    assert_as_without_cache(windowed, rig, *asked)


def test_a_resumed_or_isolated_sequence_begins_with_a_state(windowed: LoadedModel) -> None:
    prompt = text(1, 80)
    rig = rig_of(windowed).submit(ask(1, prompt, max_tokens=30)).run()
    half = tuple(rig.tokens(1)[:12])
    rig.submit(SequenceRequest((STREAM, 2), prompt, 30, half)).run()
    rig.submit(SequenceRequest((STREAM, 3), prompt, 30, half, isolated=True)).run()
    # The third one after the whole state that the prefill of the second one left.
    assert [cached(rig, 2), cached(rig, 3)] == [79, 80]
    assert rig.tokens(2) == rig.tokens(3) == rig.tokens(1)[12:]


def test_states_are_bounded(windowed: LoadedModel) -> None:
    rig = rig_of(windowed, prefix_cache_bytes=200_000)
    for number in range(1, 20):
        rig.submit(ask(number, text(number, 100))).run()
        assert rig.loop.prefix_bytes <= 200_000
    rig.submit(ask(30, text(19, 100)), ask(31, text(1, 100))).run()
    assert [cached(rig, 30), cached(rig, 31)] == [99, 0]
    small = rig_of(windowed, prefix_cache_bytes=1000).submit(ask(1, text(1, 100))).run()
    assert small.loop.prefix_bytes == 0


def test_short_prompts_leave_no_states(windowed: LoadedModel) -> None:
    rig = rig_of(windowed).submit(ask(1, text(1, 20))).run()
    assert rig.loop.prefix_bytes == 0

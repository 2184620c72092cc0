"""Log-probabilities from the step loop, against log_softmax of mlx-lm's own scores."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.request import (
    LogprobOptions,
    Logprobs,
    Sampling,
    SequenceRequest,
)
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.failing_forward import FailingForward, Rows
from tests.fakes.tiny_model import EOS, mx, write_model
from tests.matrix.examination import prompt

_TO_MLX_LM = 1e-3
_TO_NEIGHBOURS = 1e-4
TOP = 5
OUTPUT = LogprobOptions(TOP)
GREEDY = Sampling()
BOTH = LogprobOptions(TOP, prompt=True)
SEEDED = Sampling(
    temperature=0.9, top_p=0.8, repetition_penalty=1.3, seed=7, logit_bias={40: 4.0, 41: -100.0}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module", params=[True, False], ids=["cpu", "mlx"])
def loaded(request: pytest.FixtureRequest, folder: Path) -> LoadedModel:
    return load_model(folder, cpu_forward=request.param)


@pytest.fixture(scope="module")
def mlx_lm(folder: Path) -> Callable[[tuple[int, ...]], NDArray[np.float64]]:
    """Log-probabilities (tokens, vocab) after each token, by mlx-lm in process."""
    load: Any = import_module("mlx_lm.utils").load_model
    model: Any = load(folder)[0]

    def compute(tokens: tuple[int, ...]) -> NDArray[np.float64]:
        scores = np.array(model(mx.array([tokens]))[0].astype(mx.float32)).astype(np.float64)
        shifted = scores - scores.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    return compute


Reference = Callable[[tuple[int, ...]], NDArray[np.float64]]


def ask(
    number: int,
    length: int,
    options: LogprobOptions | None,
    *,
    sampling: Sampling = GREEDY,
    max_tokens: int = 12,
    generated: tuple[int, ...] = (),
    ends: frozenset[int] = frozenset(),
) -> SequenceRequest:
    return SequenceRequest(
        (STREAM, number),
        prompt(number, length),
        max_tokens,
        generated,
        sampling,
        ends,
        logprobs=options,
    )


def assert_as_mlx_lm(
    reference: Reference, tokens: tuple[int, ...], first: int, found: Logprobs | None
) -> None:
    """Those found are of the tokens from `first` to the last one."""
    assert found is not None
    expected = reference(tokens)[first - 1 : -1]
    following = np.array(tokens[first:])
    assert len(found.chosen) == len(following)
    chosen = np.take_along_axis(expected, following[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(found.chosen, chosen, atol=_TO_MLX_LM)
    ids = np.array(found.top_token_ids).reshape(len(following), -1)
    values = np.array(found.top).reshape(ids.shape)
    best = -np.sort(-expected, axis=-1)[:, : ids.shape[1]]
    np.testing.assert_allclose(values, best, atol=_TO_MLX_LM)
    np.testing.assert_allclose(values, np.take_along_axis(expected, ids, axis=1), atol=_TO_MLX_LM)


def assert_close(one: Logprobs | None, other: Logprobs | None) -> None:
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.chosen, other.chosen, atol=_TO_NEIGHBOURS)
    np.testing.assert_allclose(one.top, other.top, atol=_TO_NEIGHBOURS)
    assert one.top_token_ids == other.top_token_ids


@pytest.mark.parametrize("sampling", [Sampling(), SEEDED], ids=["greedy", "seeded"])
def test_output_and_prompt_are_those_of_mlx_lm(
    loaded: LoadedModel, mlx_lm: Reference, sampling: Sampling
) -> None:
    asked = ask(1, 60, BOTH, sampling=sampling)
    rig = Rig(loaded).submit(asked).run()
    of_prompt, of_output = rig.logprobs(1)
    tokens = (*asked.prompt, *rig.tokens(1))
    assert_as_mlx_lm(mlx_lm, asked.prompt, 1, of_prompt)
    assert_as_mlx_lm(mlx_lm, tokens, len(asked.prompt), of_output)
    assert len(rig.tokens(1)) == asked.max_tokens


def test_every_update_has_one_for_each_of_its_tokens(loaded: LoadedModel) -> None:
    rig = Rig(loaded).submit(ask(1, 20, OUTPUT)).run()
    for update in rig.updates[1]:
        found = 0 if update.logprobs is None else len(update.logprobs.chosen)
        assert found == len(update.token_ids)
        assert update.prompt_logprobs is None


def test_end_tokens_have_theirs(loaded: LoadedModel, mlx_lm: Reference) -> None:
    free = Rig(loaded).submit(ask(1, 20, OUTPUT)).run().tokens(1)
    rig = Rig(loaded).submit(ask(1, 20, OUTPUT, ends=frozenset({free[4], EOS}))).run()
    tokens = rig.tokens(1)
    assert tokens == free[: free.index(free[4]) + 1]
    assert_as_mlx_lm(mlx_lm, (*prompt(1, 20), *tokens), 20, rig.logprobs(1)[1])


def test_neighbours_change_nothing(loaded: LoadedModel) -> None:
    options = [BOTH, None, OUTPUT, LogprobOptions(20, prompt=True), None, LogprobOptions()]
    asked = [
        ask(number, 10 + 7 * number, each, sampling=SEEDED if number % 2 else Sampling())
        for number, each in enumerate(options, start=1)
    ]
    together = Rig(loaded).submit(*asked).run()
    for each in asked:
        number = each.key[1]
        alone = Rig(loaded).submit(each).run()
        assert together.tokens(number) == alone.tokens(number)
        for one, other in zip(together.logprobs(number), alone.logprobs(number), strict=True):
            if one is None or other is None:
                assert one == other
            else:
                assert_close(one, other)


def test_the_tokens_are_the_same_with_and_without(loaded: LoadedModel) -> None:
    lengths = (1, 2, 20, 33, 90)
    for options in (OUTPUT, BOTH):
        for sampling in (Sampling(), SEEDED):
            plain = [ask(at, n, None, sampling=sampling) for at, n in enumerate(lengths, 1)]
            with_them = [replace(each, logprobs=options) for each in plain]
            one, other = Rig(loaded).submit(*plain).run(), Rig(loaded).submit(*with_them).run()
            for each in plain:
                assert one.tokens(each.key[1]) == other.tokens(each.key[1])


def test_those_of_a_prompt_come_in_order_before_the_first_token(
    loaded: LoadedModel, mlx_lm: Reference
) -> None:
    running = ask(1, 10, None, max_tokens=200)
    asked = ask(2, 700, BOTH)
    rig = Rig(loaded, prefill_tokens_per_step=64).submit(running)
    rig.step(3)
    rig.submit(asked).run()
    parts = [each.prompt_logprobs for each in rig.updates[2]]
    assert sum(part is not None for part in parts) > 5
    first_token = next(at for at, each in enumerate(rig.updates[2]) if each.token_ids)
    assert all(part is None for part in parts[first_token + 1 :])
    assert_as_mlx_lm(mlx_lm, asked.prompt, 1, rig.logprobs(2)[0])


def test_prompts_of_one_and_two_tokens(loaded: LoadedModel, mlx_lm: Reference) -> None:
    rig = Rig(loaded).submit(ask(1, 1, BOTH), ask(2, 2, BOTH)).run()
    assert rig.logprobs(1)[0] is None
    assert_as_mlx_lm(mlx_lm, prompt(2, 2), 1, rig.logprobs(2)[0])
    assert_as_mlx_lm(mlx_lm, (*prompt(1, 1), *rig.tokens(1)), 1, rig.logprobs(1)[1])


def test_nothing_is_read_from_the_prefix_cache_and_all_is_stored(loaded: LoadedModel) -> None:
    rig = Rig(loaded, prefix_cache_bytes=2**26)
    without = replace(ask(1, 200, None), key=(STREAM, 2))
    rig.submit(without).run()
    rig.submit(ask(1, 200, BOTH)).run()
    assert rig.last(1).timings is not None
    assert {each.cached_tokens for each in rig.updates[1]} == {0, None}
    assert_close(rig.logprobs(1)[0], Rig(loaded).submit(ask(1, 200, BOTH)).run().logprobs(1)[0])
    # Of the output alone, the prompt may be read from there.
    rig.submit(replace(ask(1, 200, OUTPUT), key=(STREAM, 3))).run()
    assert {each.cached_tokens for each in rig.updates[3]} == {192, None}


def test_a_resumed_sequence_returns_those_of_its_prompt_from_the_start(
    loaded: LoadedModel, mlx_lm: Reference
) -> None:
    whole = Rig(loaded).submit(ask(1, 50, BOTH, sampling=SEEDED)).run()
    generated = tuple(whole.tokens(1)[:5])
    rig = Rig(loaded).submit(ask(1, 50, BOTH, sampling=SEEDED, generated=generated)).run()
    assert [*generated, *rig.tokens(1)] == whole.tokens(1)
    of_prompt, of_output = rig.logprobs(1)
    assert_close(of_prompt, whole.logprobs(1)[0])
    tokens = (*prompt(1, 50), *whole.tokens(1))
    assert_as_mlx_lm(mlx_lm, tokens, 55, of_output)


@pytest.mark.parametrize("fails_in", ["prefill", "decode"])
def test_a_restart_repeats_none(loaded: LoadedModel, mlx_lm: Reference, fails_in: str) -> None:
    """The third slice of a prompt fails once, or the first step of both."""
    passes: list[int] = []
    failed: list[bool] = []

    def fails_at(rows: Rows) -> bool:
        prompts = any(len(row) > 1 for row in rows)
        passes.append(len(rows))
        here = len(passes) == 3 if fails_in == "prefill" else not prompts and len(rows) > 1
        if here and not failed:
            failed.append(True)
            return True
        return False

    failing = FailingForward(loaded.model, fails_at, ValueError("a shape"))
    broken = replace(loaded, model=failing)
    asked = [ask(1, 90, BOTH), ask(2, 84, BOTH)]
    rig = Rig(broken, prefill_tokens_per_step=40).submit(*asked).run()
    assert failed == [True]
    for each in asked:
        number = each.key[1]
        assert rig.last(number).error is None
        of_prompt, of_output = rig.logprobs(number)
        assert_as_mlx_lm(mlx_lm, each.prompt, 1, of_prompt)
        tokens = (*each.prompt, *rig.tokens(number))
        assert_as_mlx_lm(mlx_lm, tokens, len(each.prompt), of_output)
        assert len(rig.tokens(number)) == each.max_tokens


def test_only_the_scores_of_a_few_tokens_are_in_memory_at_once(
    loaded: LoadedModel, mlx_lm: Reference
) -> None:
    counts: list[int] = []

    def count(rows: Rows) -> bool:
        counts.append(len(rows) * max(len(row) for row in rows))
        return False

    counting = replace(
        loaded,
        model=FailingForward(loaded.model, count, ValueError()),
        # With a vocabulary as large as that, the scores of ten tokens are all that may be there.
        vocab_size=2**25 // 10,
    )
    asked = [ask(1, 75, BOTH), ask(2, 6, BOTH), ask(3, 5, BOTH)]
    rig = Rig(counting).submit(*asked).run()
    assert max(counts) <= 10
    for each in asked:
        assert_as_mlx_lm(mlx_lm, each.prompt, 1, rig.logprobs(each.key[1])[0])


def test_more_than_the_vocabulary_returns_all_of_it(tmp_path: Path) -> None:
    small = load_model(write_model(tmp_path, vocab_size=12, eos_token_id=0))
    asked = SequenceRequest((STREAM, 1), (3, 4, 5, 6), 4, logprobs=LogprobOptions(20, prompt=True))
    of_prompt, of_output = Rig(small).submit(asked).run().logprobs(1)
    assert of_prompt is not None
    assert of_output is not None
    assert [len(each.top) for each in (of_prompt, of_output)] == [3 * 12, 4 * 12]
    assert sorted(of_output.top_token_ids[:12]) == list(range(12))


def test_isolated_sequences_have_theirs(loaded: LoadedModel, mlx_lm: Reference) -> None:
    asked = [replace(ask(number, 30, BOTH), isolated=True) for number in (1, 2)]
    rig = Rig(loaded).submit(*asked).run()
    for each in asked:
        of_prompt, of_output = rig.logprobs(each.key[1])
        assert_as_mlx_lm(mlx_lm, each.prompt, 1, of_prompt)
        assert_as_mlx_lm(mlx_lm, (*each.prompt, *rig.tokens(each.key[1])), 30, of_output)

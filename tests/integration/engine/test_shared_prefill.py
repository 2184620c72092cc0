"""Sequences with one prompt: prefilled once, with the tokens that each has alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_engine.cache.kv_cache import Batching, RowsCache
from mlxmesh_engine.forward.forward_pass import Forward
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.images import PromptImages
from mlxmesh_engine.scheduling.request import LogprobOptions, Sampling, SequenceRequest
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.failing_forward import FailingForward, Rows
from tests.fakes.tiny_model import write_model
from tests.matrix.examination import prompt, write_architecture

LENGTH = 70
ROWS = 32


@pytest.fixture(scope="module", params=["cpu", "mlx", "sliding", "equal lengths", "alone"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """One for each kind of cache and each batching."""
    folder: Path = tmp_path_factory.mktemp("model")
    if request.param == "equal lengths":
        return load_model(write_architecture(folder, "nemotron_h"), cpu_forward=False)
    if request.param == "alone":
        return load_model(write_architecture(folder, "gemma2"), cpu_forward=False)
    if request.param == "sliding":
        types = ["sliding_attention", "full_attention"]
        path = write_model(folder, layer_types=types, sliding_window=24)
        return load_model(path, cpu_forward=False)
    return load_model(write_model(folder), cpu_forward=request.param == "cpu")


class Counted:
    """A model, and how many tokens it prefilled."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.prefilled = 0
        self.loaded = replace(
            loaded, model=FailingForward(loaded.model, self._count, ValueError("never"))
        )

    def _count(self, rows: Rows) -> bool:
        if any(len(row) > 1 for row in rows):
            self.prefilled += sum(map(len, rows))
        return False


def sampling(number: int) -> Sampling:
    if number % 4 == 0:
        return Sampling()
    return Sampling(
        temperature=0.9,
        top_p=0.9,
        repetition_penalty=1.2 if number % 3 == 0 else 1.0,
        frequency_penalty=0.5 if number % 3 == 1 else 0.0,
        seed=number * 2**33,
    )


def outputs(
    count: int, *, length: int = LENGTH, first: int = 1, max_tokens: int = 6
) -> list[SequenceRequest]:
    """The requests of one prompt; all but the first share the first one's prefill."""
    return [
        SequenceRequest(
            (STREAM, number),
            prompt(first, length),
            max_tokens,
            sampling=sampling(number),
            shares_prefill_of=(STREAM, first) if number > first else None,
        )
        for number in range(first, first + count)
    ]


def alone(loaded: LoadedModel, asked: Sequence[SequenceRequest]) -> list[list[int]]:
    return [Rig(loaded).submit(each).run().tokens(each.key[1]) for each in asked]


def tokens(rig: Rig, asked: Sequence[SequenceRequest]) -> list[list[int]]:
    return [rig.tokens(each.key[1]) for each in asked]


def cached(rig: Rig, number: int) -> int | None:
    emitted = [each.cached_tokens for each in rig.updates[number] if each.cached_tokens is not None]
    return emitted[-1]


def test_one_prefill_serves_32_rows_whose_tokens_are_those_of_each_alone(
    loaded: LoadedModel,
) -> None:
    counted, asked = Counted(loaded), outputs(ROWS)
    rig = Rig(counted.loaded).submit(*asked).run()
    assert counted.prefilled == LENGTH - 1
    assert tokens(rig, asked) == alone(loaded, asked)
    assert [cached(rig, each.key[1]) for each in asked] == [0] + [LENGTH - 1] * (ROWS - 1)
    assert (rig.loop.prompt_tokens, rig.loop.cached_prompt_tokens) == (
        ROWS * LENGTH,
        (ROWS - 1) * (LENGTH - 1),
    )


def test_a_prompt_in_slices_beside_others(loaded: LoadedModel) -> None:
    counted = Counted(loaded)
    beside = SequenceRequest((STREAM, 99), prompt(99, 12), 60)
    asked = [*outputs(3, length=300), *outputs(3, length=40, first=11)]
    rig = Rig(counted.loaded, prefill_tokens_per_step=64).submit(beside)
    rig.step(2)
    rig.submit(*asked).run()
    assert counted.prefilled == 11 + 299 + 39
    assert tokens(rig, [beside, *asked]) == alone(loaded, [beside, *asked])


def test_two_prompts_of_one_group_with_followers_each(loaded: LoadedModel) -> None:
    counted = Counted(loaded)
    asked = [*outputs(3, length=50), *outputs(4, length=50, first=11)]
    rig = Rig(counted.loaded).submit(*asked).run()
    assert counted.prefilled == 2 * 49
    assert tokens(rig, asked) == alone(loaded, asked)


def test_a_leader_that_is_cancelled_in_prefill_leaves_it_to_the_others(
    loaded: LoadedModel,
) -> None:
    asked = outputs(3, length=300)
    rig = Rig(loaded, prefill_tokens_per_step=64).submit(*asked)
    rig.step(2)
    rig.loop.cancel((STREAM, 1))
    rig.run()
    assert tokens(rig, asked[1:]) == alone(loaded, asked[1:])
    assert [cached(rig, number) for number in (2, 3)] == [0, 0]


def test_a_leader_that_fails_in_prefill_takes_nobody_with_it(loaded: LoadedModel) -> None:
    failed: list[bool] = []

    def fails_at(rows: Rows) -> bool:
        if any(len(row) > 1 for row in rows) and not failed:
            failed.append(True)
            return True
        return False

    broken = replace(loaded, model=FailingForward(loaded.model, fails_at, ValueError("a shape")))
    asked = outputs(4)
    rig = Rig(broken).submit(*asked).run()
    assert failed == [True]
    assert tokens(rig, asked) == alone(loaded, asked)


def test_a_resumed_sequence_is_prefilled_as_usual(loaded: LoadedModel) -> None:
    asked = outputs(3)
    expected = alone(loaded, asked)
    resumed = [
        replace(each, generated=tuple(of[: at + 2]))
        for at, (each, of) in enumerate(zip(asked, expected, strict=True))
    ]
    counted = Counted(loaded)
    rig = Rig(counted.loaded).submit(*resumed).run()
    assert counted.prefilled == sum(LENGTH + at + 2 - 1 for at in range(3))
    found = tokens(rig, resumed)
    assert [[*r.generated, *of] for r, of in zip(resumed, found, strict=True)] == expected


def test_rows_without_a_slot_are_served_later(loaded: LoadedModel) -> None:
    asked = outputs(9)
    rig = Rig(loaded, max_running=4).submit(*asked).run()
    assert tokens(rig, asked) == alone(loaded, asked)


def test_with_a_prefix_cache_the_tokens_are_the_same(loaded: LoadedModel) -> None:
    asked = outputs(6)
    rig = Rig(loaded, prefix_cache_bytes=2**26).submit(*asked).run()
    again = [replace(each, key=(STREAM, 50 + each.key[1])) for each in asked]
    again = [
        replace(each, shares_prefill_of=(STREAM, 51) if at else None)
        for at, each in enumerate(again)
    ]
    rig.submit(*again).run()
    assert tokens(rig, asked) == alone(loaded, asked)
    assert tokens(rig, again) == tokens(rig, asked)
    assert cached(rig, 52) == LENGTH - 1


def test_logprobs_of_outputs_do_not_need_a_prefill_of_their_own(loaded: LoadedModel) -> None:
    asked = [replace(each, logprobs=LogprobOptions(3)) for each in outputs(3)]
    asked[0] = replace(asked[0], logprobs=LogprobOptions(3, prompt=True))
    counted = Counted(loaded)
    rig = Rig(counted.loaded).submit(*asked).run()
    assert counted.prefilled == LENGTH - 1
    for each in asked:
        of_prompt, of_output = rig.logprobs(each.key[1])
        plain = replace(each, shares_prefill_of=None)
        expected = Rig(loaded).submit(plain).run().logprobs(each.key[1])
        assert (of_prompt is None) == (expected[0] is None)
        assert of_output is not None
        assert expected[1] is not None
        assert of_output.chosen == pytest.approx(expected[1].chosen, abs=1e-4)
        assert of_output.top_token_ids == expected[1].top_token_ids


class Uncopied(FailingForward):
    """A forward pass whose caches refuse to copy rows."""

    def __init__(self, forward: Forward) -> None:
        super().__init__(forward, lambda _rows: False, ValueError())

        def new_cache(
            prefixes: Sequence[Any], images: Sequence[PromptImages | None] = ()
        ) -> RowsCache:
            cache = forward.new_cache(prefixes, images)
            vars(cache)["copy_rows"] = refuse
            return cache

        self.new_cache = new_cache


def refuse(rows: Sequence[int]) -> RowsCache:
    raise ValueError(f"no copy of {rows}")


def test_rows_that_cannot_be_copied_are_prefilled(loaded: LoadedModel) -> None:
    counted, asked = Counted(loaded), outputs(3)
    rig = Rig(replace(loaded, model=Uncopied(counted.loaded.model))).submit(*asked).run()
    assert counted.prefilled == 3 * (LENGTH - 1)
    assert tokens(rig, asked) == alone(loaded, asked)


def test_each_kind_of_batching_is_here(loaded: LoadedModel, request: pytest.FixtureRequest) -> None:
    kinds = {
        "cpu": Batching.PACKED,
        "mlx": Batching.TOGETHER,
        "sliding": Batching.TOGETHER,
        "equal lengths": Batching.EQUAL_LENGTHS,
        "alone": Batching.ALONE,
    }
    assert loaded.batching is kinds[request.node.callspec.params["loaded"]]

"""Faults in a batch: only the sequence that causes one fails, with a reason."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.request import FinishReason, SequenceRequest
from mlxmesh_shared.errors import EngineFailed
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.failing_forward import FailingForward, Rows
from tests.fakes.tiny_model import write_model
from tests.matrix.examination import prompt

_TOKENS = 10


@pytest.fixture(scope="module", params=[True, False], ids=["cpu", "mlx"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(write_model(tmp_path_factory.mktemp("plain")), cpu_forward=request.param)


def failing(loaded: LoadedModel, fails_at: Callable[[Rows], bool]) -> LoadedModel:
    error = ValueError("[broadcast_shapes] Shapes (6,1,3,3) and (6,2,2,3,3)")
    return replace(loaded, model=FailingForward(loaded.model, fails_at, error))


def requests(*lengths: int) -> list[SequenceRequest]:
    return [
        SequenceRequest((STREAM, number), prompt(number, length), _TOKENS)
        for number, length in enumerate(lengths, 1)
    ]


def tokens_of(rig: Rig, count: int) -> list[list[int]]:
    return [rig.tokens(number) for number in range(1, count + 1)]


@pytest.mark.parametrize("prefix_cache_bytes", [0, 2**26])
@pytest.mark.parametrize("length", ["prompts", "steps"])
def test_a_model_that_fails_in_batches_serves_every_sequence_alone(
    loaded: LoadedModel, length: str, prefix_cache_bytes: int
) -> None:
    asked = requests(40, 45, 50, 300)
    expected = tokens_of(Rig(loaded).submit(*asked).run(), 4)

    def fails_at(rows: Rows) -> bool:
        return len(rows) > 1 and _are_prompts(rows) == (length == "prompts")

    rig = Rig(failing(loaded, fails_at), prefix_cache_bytes=prefix_cache_bytes)
    assert tokens_of(rig.submit(*asked).run(), 4) == expected
    assert {rig.last(number).finish_reason for number in range(1, 5)} == {FinishReason.LENGTH}


def test_only_the_sequence_that_causes_the_failure_fails(loaded: LoadedModel) -> None:
    asked = requests(40, 45, 50)
    expected = tokens_of(Rig(loaded).submit(*asked).run(), 3)
    others = {token for tokens in (expected[0], expected[2]) for token in tokens}
    at, poison = next((at, t) for at, t in enumerate(expected[1]) if t not in others)

    def fails_at(rows: Rows) -> bool:
        return not _are_prompts(rows) and [poison] in rows

    rig = Rig(failing(loaded, fails_at)).submit(*asked).run()
    found = tokens_of(rig, 3)
    assert (found[0], found[2]) == (expected[0], expected[2])
    assert found[1] == expected[1][: at + 1]
    assert isinstance(rig.last(2).error, EngineFailed)


def test_a_prompt_that_cannot_be_prefilled_fails_alone(loaded: LoadedModel) -> None:
    asked = requests(40, 45, 50)
    expected = tokens_of(Rig(loaded).submit(*asked).run(), 3)
    poison = next(t for t in asked[1].prompt if t not in asked[0].prompt + asked[2].prompt)

    def fails_at(rows: Rows) -> bool:
        return _are_prompts(rows) and any(poison in row for row in rows)

    rig = Rig(failing(loaded, fails_at)).submit(*asked).run()
    assert (rig.tokens(1), rig.tokens(3)) == (expected[0], expected[2])
    assert isinstance(rig.last(2).error, EngineFailed)


def test_an_isolated_sequence_shares_no_batch(loaded: LoadedModel) -> None:
    counts: list[int] = []

    def fails_at(rows: Rows) -> bool:
        counts.append(len(rows))
        return False

    asked = [replace(each, isolated=True) for each in requests(40, 45, 50)]
    rig = Rig(failing(loaded, fails_at)).submit(*asked).run()
    assert tokens_of(rig, 3) == tokens_of(Rig(loaded).submit(*asked).run(), 3)
    assert set(counts) == {1}


def _are_prompts(rows: Rows) -> bool:
    return any(len(row) > 1 for row in rows)

import mlx.core as mx
import numpy as np
import pytest

from mlxmesh_engine.sampling.randomness import draw, padded, uniforms


def numbers(seeds: list[int], positions: list[int]) -> np.ndarray:
    return uniforms(np.array(seeds, np.uint64), np.array(positions, np.uint64))


def test_one_seeds_positions_never_share_their_numbers() -> None:
    found = numbers([2**64 - 1] * 100_000, list(range(100_000)))
    assert len(np.unique(found, axis=0)) > 99_990


def test_near_seeds_and_positions_do_not_collide() -> None:
    seeds, positions = np.meshgrid(np.arange(300), np.arange(300))
    found = numbers(seeds.ravel().tolist(), positions.ravel().tolist())
    assert len(np.unique(found, axis=0)) > 89_990


def test_both_halves_of_a_seed_count() -> None:
    low, high = numbers([1], [0]), numbers([1 + 2**40], [0])
    assert not np.array_equal(low, high)


def test_numbers_are_uniform_and_their_two_columns_independent() -> None:
    found = numbers([3] * 200_000, list(range(200_000)))
    assert found.dtype == np.float32
    assert found.min() > 0
    assert found.max() < 1
    cells = np.histogram2d(found[:, 0], found[:, 1], bins=16)[0]
    # 256 cells of 781 each: their spread is that of a fair draw.
    assert 200 < ((cells - cells.mean()) ** 2 / cells.mean()).sum() < 320


@pytest.mark.parametrize("vocab", [1, 63, 64, 65, 1000])
def test_a_token_is_drawn_in_proportion_to_its_weight(vocab: int) -> None:
    weights = np.random.default_rng(vocab).exponential(1, vocab).astype(np.float32)
    weights[1::3] = 0
    rows = 20_000
    repeated = padded(mx.array(np.repeat(weights[None], rows, axis=0)))
    drawn = np.array(draw(repeated, numbers([9] * rows, list(range(rows)))))
    assert drawn.max() < vocab
    counts = np.bincount(drawn, minlength=vocab)
    assert not counts[weights == 0].any()
    expected = weights / weights.sum() * rows
    large = expected > 5
    chi = ((counts - expected)[large] ** 2 / expected[large]).sum()
    assert chi < large.sum() + 6 * np.sqrt(2 * large.sum())


@pytest.mark.parametrize("number", [2**-24, 1 - 2**-24])
def test_the_extreme_numbers_choose_a_token_that_may_be_drawn(number: float) -> None:
    weights = np.zeros((1, 192), np.float32)
    weights[0, 70:75] = [1e-30, 0.3, 0.1, 1.0, 0.0]
    both = np.full((1, 2), number, np.float32)
    assert weights[0, np.array(draw(mx.array(weights), both))[0]] > 0.05


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    weights = np.random.default_rng(1).exponential(1, (33, 4096)).astype(np.float32)
    found = numbers(list(range(33)), list(range(33)))
    together = np.array(draw(mx.array(weights), found))
    alone = [
        np.array(draw(mx.array(weights[row : row + 1]), found[row : row + 1]))[0]
        for row in range(33)
    ]
    assert together.tolist() == alone

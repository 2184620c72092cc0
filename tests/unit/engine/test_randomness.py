import mlx.core as mx
import numpy as np

from mlxmesh_engine.randomness import draw_keys, exponentials


def keys(seeds: list[int], positions: list[int]) -> np.ndarray:
    return draw_keys(np.array(seeds, np.uint64), np.array(positions, np.uint64))


def test_one_seeds_positions_never_share_a_key() -> None:
    found = keys([2**64 - 1] * 100_000, list(range(100_000)))
    assert len(np.unique(found, axis=0)) == 100_000


def test_near_seeds_and_positions_do_not_collide() -> None:
    seeds, positions = np.meshgrid(np.arange(300), np.arange(300))
    found = keys(seeds.ravel().tolist(), positions.ravel().tolist())
    assert len(np.unique(found, axis=0)) == 90_000


def test_both_halves_of_a_seed_count() -> None:
    low, high = keys([1], [0]), keys([1 + 2**40], [0])
    assert not np.array_equal(low, high)


def test_a_row_depends_on_its_key_alone() -> None:
    together = np.array(exponentials(keys([5, 6, 7], [0, 1, 2]), 100))
    alone = np.array(exponentials(keys([6], [1]), 100))
    assert np.array_equal(together[1:2], alone)


def test_values_are_exponential_and_never_infinite() -> None:
    values = np.array(exponentials(keys([1] * 50, list(range(50))), 4000)).ravel()
    assert np.isfinite(values).all()
    assert (values > 0).all()
    # Mean and variance of the exponential distribution are 1.
    assert abs(values.mean() - 1) < 0.01
    assert abs(values.var() - 1) < 0.03
    assert mx.default_device() is not None

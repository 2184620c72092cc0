import mlx.core as mx
import numpy as np

from mlxmesh_engine.row_table import RowTable


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_exists_only_while_a_row_needs_it() -> None:
    subject = RowTable(3)
    subject.join([None, None])
    assert subject.values is None
    subject.join([row(1, 2, 3)])
    assert np.array(subject.values).tolist() == [[0, 0, 0], [0, 0, 0], [1, 2, 3]]
    subject.keep([0, 2])
    assert np.array(subject.values).tolist() == [[0, 0, 0], [1, 2, 3]]
    subject.keep([0])
    assert subject.values is None
    subject.join([row(4, 5, 6)])
    assert np.array(subject.values).tolist() == [[0, 0, 0], [4, 5, 6]]


def test_counts_tokens_row_by_row() -> None:
    subject = RowTable(3)
    subject.count(mx.array([1], mx.uint32))
    assert subject.values is None
    subject.join([row(0, 0, 0), row(0, 5, 0)])
    subject.count(mx.array([2, 1], mx.uint32))
    subject.count(mx.array([2, 0], mx.uint32))
    assert np.array(subject.values).tolist() == [[0, 0, 2], [1, 6, 0]]

import mlx.core as mx
import numpy as np
import pytest

from mlxmesh_engine.sampling.row_table import RowSet, RowTable


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def listed(table: RowTable) -> list[list[float]]:
    return np.array(table.values).tolist()


@pytest.mark.parametrize("rows", [[0], [2, 0], [0, 1, 2]])
def test_a_set_of_rows_is_selected_and_replaced(rows: list[int]) -> None:
    batch = mx.array([[1.0], [2.0], [3.0]])
    subject = RowSet(rows, 3)
    taken = subject.select(batch)
    assert subject.count == taken.shape[0] == len(rows)
    replaced = np.array(subject.replace(batch, taken * 10))[:, 0]
    expected = [(at + 1.0) * (10 if at in rows else 1) for at in range(3)]
    assert replaced.tolist() == expected
    assert np.array(batch)[:, 0].tolist() == [1, 2, 3]


def test_the_table_exists_only_while_a_row_needs_it() -> None:
    subject = RowTable()
    subject.join([None, None])
    assert subject.values is None
    assert subject.arrays() == []
    subject.join([row(1, 2, 3), None, row(4, 5, 6)])
    assert listed(subject) == [[1, 2, 3], [4, 5, 6]]
    subject.filter([0, 3, 4])
    assert listed(subject) == [[4, 5, 6]]
    assert np.array(subject.rows.select(mx.array([7, 8, 9]))).tolist() == [9]
    subject.filter([0])
    assert subject.values is None
    subject.join([row(7, 8, 9)])
    assert listed(subject) == [[7, 8, 9]]


def test_filtered_rows_keep_the_given_order() -> None:
    subject = RowTable()
    subject.join([row(1), None, row(3)])
    subject.filter([2, 0])
    assert listed(subject) == [[3], [1]]


def test_adds_and_sets_at_each_rows_token() -> None:
    subject = RowTable()
    subject.add(mx.array([1], mx.uint32), 1.0)
    subject.set(mx.array([1], mx.uint32), mx.array([1.0]))
    assert subject.values is None
    subject.join([row(0, 0, 0), None, row(0, 5, 0)])
    subject.add(mx.array([2, 0, 1], mx.uint32), 1.0)
    subject.add(mx.array([2, 0, 0], mx.uint32), 1.0)
    assert listed(subject) == [[0, 0, 2], [1, 6, 0]]
    subject.set(mx.array([0, 2, 1], mx.uint32), mx.array([8.0, 9.0]))
    assert listed(subject) == [[8, 0, 2], [1, 9, 0]]

"""How two answers are compared, and why there is no second one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.shadowing.comparison import (
    MAX_COMPARED_CHARACTERS,
    edit_distance,
    first_difference,
)
from mlxmesh_generation.shadowing.pair import DropReason, reason_of
from mlxmesh_shared.errors import (
    Cancelled,
    ContextTooLong,
    DeadlineExceeded,
    EngineLost,
    FeatureNotSupported,
    InsufficientMemory,
    Internal,
    MeshError,
    ModelNotFound,
    ModelNotLoaded,
    NoReplica,
    QueueFull,
    ServiceUnavailable,
)


def reference_distance(one: str, other: str) -> int:
    """Source: Wagner and Fischer, "The String-to-String Correction Problem" (1974)."""
    above = list(range(len(other) + 1))
    for row, left in enumerate(one, start=1):
        current = [row]
        for column, right in enumerate(other, start=1):
            replaced = above[column - 1] + (left != right)
            current.append(min(replaced, above[column] + 1, current[-1] + 1))
        above = current
    return above[-1]


@given(st.text(max_size=20), st.text(max_size=20))
def test_the_distance_is_levenshteins_as_a_part_of_the_longer_text(one: str, other: str) -> None:
    longer = max(len(one), len(other))
    expected = reference_distance(one, other) / longer if longer else 0
    assert edit_distance(one, other) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("", "", 0), ("abc", "abc", 0), ("abc", "", 1), ("abcd", "abxd", 0.25), ("né", "ne", 0.5)],
)
def test_known_distances(one: str, other: str, expected: float) -> None:
    assert edit_distance(one, other) == pytest.approx(expected)


def test_of_long_texts_the_beginning_is_compared() -> None:
    text = "a" * MAX_COMPARED_CHARACTERS
    assert edit_distance(text + "b" * 10**6, text + "c" * 10**6) == 0
    assert edit_distance("b" * 10**6, "c" * 10**6) == 1


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [((), (), 0), ((1, 2), (1, 2), 2), ((1, 2, 3), (1, 9, 3), 1), ((1, 2), (1, 2, 3), 2)],
)
def test_the_first_difference_counts_equal_tokens(
    one: tuple[int, ...], other: tuple[int, ...], expected: int
) -> None:
    assert first_difference(one, other) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Cancelled("made way"), DropReason.NO_ROOM),
        (QueueFull("x"), DropReason.NO_ROOM),
        (NoReplica("x"), DropReason.NO_ROOM),
        (ModelNotLoaded("x"), DropReason.NO_ROOM),
        (InsufficientMemory("x"), DropReason.NO_ROOM),
        (DeadlineExceeded("x"), DropReason.TIMEOUT),
        (ContextTooLong("x"), DropReason.UNSUPPORTED),
        (FeatureNotSupported("x"), DropReason.UNSUPPORTED),
        (ModelNotFound("x"), DropReason.UNSUPPORTED),
        (EngineLost("x"), DropReason.FAILED),
        (Internal("x"), DropReason.FAILED),
        (ServiceUnavailable("x"), DropReason.FAILED),
    ],
)
def test_each_error_has_its_reason(error: MeshError, expected: DropReason) -> None:
    assert reason_of(error) is expected

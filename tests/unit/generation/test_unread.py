"""Output that nobody reads is bounded, and costs the caller that has most of it."""

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.streams.limits import UnreadLimit, UnreadOutput


class Reader:
    """A reader that does not read; what waits for it goes when it is given up."""

    def __init__(self, limit: UnreadLimit, caller: str) -> None:
        self._limit = limit
        self.output = UnreadOutput(caller, self._give_up)
        self.given_up = False

    def put(self, size_bytes: int) -> None:
        if not self.given_up:
            self._limit.changed(self.output, size_bytes)

    def _give_up(self) -> None:
        self.given_up = True
        self._limit.changed(self.output, -self.output.size_bytes)


def test_below_the_limit_nobody_loses_anything() -> None:
    limit = UnreadLimit(100)
    readers = [Reader(limit, "a") for _ in range(10)]
    for reader in readers:
        reader.put(10)
    assert not any(reader.given_up for reader in readers)
    assert limit.total_bytes == 100


def test_the_caller_with_the_most_loses_its_largest() -> None:
    limit = UnreadLimit(100)
    small, large, other = Reader(limit, "a"), Reader(limit, "a"), Reader(limit, "b")
    small.put(25)
    large.put(30)
    other.put(40)
    other.put(6)
    assert (small.given_up, large.given_up, other.given_up) == (False, True, False)
    assert limit.total_bytes == 71


def test_what_is_read_no_longer_counts() -> None:
    limit = UnreadLimit(100)
    reader = Reader(limit, "a")
    for _ in range(100):
        reader.put(90)
        reader.put(-90)
    assert not reader.given_up
    assert limit.total_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), max_size=100))
def test_there_is_never_more_than_the_limit(puts: list[tuple[int, int]]) -> None:
    limit = UnreadLimit(100)
    readers = [Reader(limit, "abc"[number % 3]) for number in range(10)]
    for number, size_bytes in puts:
        readers[number].put(size_bytes)
        assert limit.total_bytes <= 100
        assert limit.total_bytes == sum(reader.output.size_bytes for reader in readers)

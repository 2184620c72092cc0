"""What is given up first, and that totals stay within their limits."""

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.domain.request import GenerationKey
from mlxmesh_generation.streams.retention import Retention, RetentionLimits


def key(request_id: str) -> GenerationKey:
    return GenerationKey("owner", request_id)


class Kept:
    """Satisfies Messages."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def drop_oldest(self) -> int:
        return self.sizes.pop(0) if self.sizes else 0


class Shelf:
    """A retention, its clock, and what it forgot."""

    def __init__(self, **limits: int) -> None:
        self.now_s = 0.0
        self.forgotten: list[str] = []
        self.kept: dict[str, Kept] = {}
        self.retention = Retention(
            RetentionLimits(**limits),
            forget=lambda key: self.forgotten.append(key.request_id),
            clock=lambda: self.now_s,
        )

    def add(self, request_id: str, *sizes: int, ended: bool = False, caller: str = "") -> None:
        self.kept[request_id] = Kept()
        self.retention.add(key(request_id), self.kept[request_id], caller)
        for size in sizes:
            self.grow(request_id, size)
        if ended:
            self.retention.note_end(key(request_id))

    def grow(self, request_id: str, size: int) -> None:
        if request_id not in self.forgotten:
            self.kept[request_id].sizes.append(size)
            self.retention.grew(key(request_id), size)


def test_what_ended_goes_after_its_time() -> None:
    shelf = Shelf(after_end_s=300)
    shelf.add("a", ended=True)
    shelf.now_s = 200
    shelf.add("b", ended=True)
    shelf.add("c")
    shelf.now_s = 301
    shelf.retention.expire()
    assert shelf.forgotten == ["a"]


def test_the_first_that_ended_makes_room() -> None:
    shelf = Shelf(max_bytes=100)
    shelf.add("running", 40)
    shelf.add("second", 30)
    shelf.add("first", 30, ended=True)
    shelf.retention.note_end(key("second"))
    shelf.grow("running", 20)
    assert shelf.forgotten == ["first"]
    assert shelf.retention.total_bytes == 90


def test_running_ones_lose_their_oldest_messages_when_nothing_ended_is_left() -> None:
    shelf = Shelf(max_bytes=100)
    shelf.add("a", 30, 30)
    shelf.add("b", 30, 30)
    assert shelf.forgotten == []
    assert (shelf.kept["a"].sizes, shelf.kept["b"].sizes) == ([30], [30, 30])


def test_the_number_of_generations_is_bounded() -> None:
    shelf = Shelf(max_generations=2)
    for name in "abc":
        shelf.add(name, ended=True)
    assert shelf.forgotten == ["a"]


def test_what_one_caller_has_kept_does_not_cost_another_its_own() -> None:
    shelf = Shelf(max_bytes=100)
    shelf.add("mine", 20, ended=True, caller="a")
    shelf.add("running", 20, caller="a")
    for number in range(20):
        shelf.add(f"other-{number}", 15, ended=True, caller="b")
    shelf.add("other-running", *[15] * 20, caller="b")
    assert not {"mine", "running"} & {*shelf.forgotten}
    assert shelf.kept["running"].sizes == [20]
    assert shelf.retention.total_bytes <= 100


def test_the_caller_with_the_most_generations_loses_one() -> None:
    shelf = Shelf(max_generations=4)
    shelf.add("mine", ended=True, caller="a")
    for number in range(20):
        shelf.add(f"other-{number}", ended=True, caller="b")
    assert "mine" not in shelf.forgotten
    assert len(shelf.forgotten) == 17


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "grow", "end", "remove"]), st.integers(0, 5)), max_size=60
    )
)
def test_the_total_is_right_and_bounded_whatever_happens(moves: list[tuple[str, int]]) -> None:
    shelf = Shelf(max_bytes=50, max_generations=3)
    for index, (move, number) in enumerate(moves):
        names = [name for name in shelf.kept if name not in shelf.forgotten]
        if move == "add":
            shelf.add(f"id-{index}", caller="abc"[number % 3])
        elif names and move == "grow":
            shelf.grow(names[number % len(names)], 1 + 7 * number)
        elif names and move == "end":
            shelf.retention.note_end(key(names[number % len(names)]))
        elif names:
            shelf.retention.remove(key(names[number % len(names)]))
            shelf.forgotten.append(names[number % len(names)])
        left = [kept for name, kept in shelf.kept.items() if name not in shelf.forgotten]
        assert shelf.retention.total_bytes == sum(sum(kept.sizes) for kept in left)
        assert shelf.retention.total_bytes <= 50

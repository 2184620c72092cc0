"""Equal shares between callers; each caller's items by priority and age."""

from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.scheduling.fair_queue import FairQueue

Item = tuple[str, int]


def queue(*items: tuple[str, int], cost: int = 10) -> FairQueue[Item]:
    """Items as (caller, number), pushed one second apart."""
    subject: FairQueue[Item] = FairQueue()
    for second, item in enumerate(items):
        push(subject, item, cost=cost, since_s=second)
    return subject


def push(
    subject: FairQueue[Item], item: Item, *, cost: int = 10, priority: int = 0, since_s: float = 0
) -> None:
    subject.push(item, caller=item[0], priority=priority, cost=cost, since_s=since_s)


def drained(subject: FairQueue[Item]) -> list[Item]:
    return [item for _ in range(len(subject)) if (item := subject.pop()) is not None]


def test_an_empty_queue_has_no_next_item() -> None:
    subject = queue()
    assert (subject.peek(), subject.pop(), len(subject)) == (None, None, 0)


def test_one_callers_items_come_in_order() -> None:
    assert drained(queue(("a", 1), ("a", 2), ("a", 3))) == [("a", 1), ("a", 2), ("a", 3)]


def test_callers_alternate_whatever_their_number_of_items() -> None:
    subject = queue(("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2))
    assert [caller for caller, _ in drained(subject)] == ["a", "b", "a", "b", "a"]


def test_expensive_items_are_served_less_often() -> None:
    subject = queue()
    for number in range(6):
        push(subject, ("large", number), cost=100)
        push(subject, ("small", number), cost=50)
    first = Counter(caller for caller, _ in drained(subject)[:6])
    assert first == {"large": 2, "small": 4}


def test_a_callers_higher_priority_goes_first() -> None:
    subject = queue()
    for number, priority in ((1, 0), (2, 5), (3, -5)):
        push(subject, ("a", number), priority=priority)
    assert [number for _, number in drained(subject)] == [2, 1, 3]


def test_priority_rises_by_one_per_second() -> None:
    subject = queue()
    push(subject, ("a", 1), priority=0, since_s=0)
    push(subject, ("a", 2), priority=5, since_s=6)
    push(subject, ("a", 3), priority=5, since_s=4)
    assert [number for _, number in drained(subject)] == [3, 1, 2]


def test_priority_does_not_affect_other_callers() -> None:
    subject = queue()
    for number in range(4):
        push(subject, ("loud", number), priority=100)
        push(subject, ("quiet", number), priority=-100)
    assert Counter(caller for caller, _ in drained(subject)[:4]) == {"loud": 2, "quiet": 2}


def test_absence_is_neither_credit_nor_debt() -> None:
    subject = queue(*(("a", number) for number in range(20)))
    for _ in range(10):
        subject.pop()
    for number in range(10):
        push(subject, ("b", number))
    assert Counter(caller for caller, _ in drained(subject)[:8]) == {"a": 4, "b": 4}


def test_removed_items_are_not_in_the_queue() -> None:
    subject = queue(("a", 1), ("a", 2), ("b", 1))
    assert subject.remove(("a", 1))
    assert not subject.remove(("a", 1))
    assert subject.remove(("b", 1))
    assert list(subject) == [("a", 2)]
    assert (subject.peek(), drained(subject)) == (("a", 2), [("a", 2)])


def test_a_stream_of_new_callers_does_not_starve_an_old_one() -> None:
    subject = queue(("old", 0), ("old", 1))
    subject.pop()
    for number in count():
        assert number < 50
        push(subject, (f"new-{number}", 0))
        push(subject, (f"more-{number}", 0))
        if subject.pop() == ("old", 1):
            return


def test_memory_is_bounded_when_all_items_are_removed() -> None:
    subject = queue(("stays", 0))
    for number in range(5000):
        push(subject, ("comes", number))
        push(subject, ("stays", number + 1), priority=-100)
        subject.remove(("comes", number))
        subject.remove(("stays", number + 1))
    held = [value for value in vars(subject).values() if hasattr(value, "__len__")]
    assert max(map(len, held)) < 1000
    assert len(subject) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=90))
def test_shares_of_waiting_callers_differ_by_at_most_one_request(
    work: list[tuple[str, int]],
) -> None:
    subject = queue()
    waiting = Counter(caller for caller, _ in work)
    costs = {(caller, number): cost for number, (caller, cost) in enumerate(work)}
    for item, cost in costs.items():
        push(subject, item, cost=cost)
    served: Counter[str] = Counter(dict.fromkeys(waiting, 0))
    while waiting and min(waiting.values()):
        assert max(served.values()) - min(served.values()) <= 50
        item = subject.pop()
        assert item is not None
        served[item[0]] += costs[item]
        waiting[item[0]] -= 1


operations = st.one_of(
    st.tuples(st.just("push"), st.sampled_from("abcdef"), st.integers(-100, 100)),
    st.tuples(st.just("pop"), st.just(""), st.just(0)),
    st.tuples(st.just("remove"), st.just(""), st.integers(0, 30)),
)


@given(st.lists(operations, max_size=120))
def test_every_item_is_popped_once(todo: list[tuple[str, str, int]]) -> None:
    subject, here = queue(), set[Item]()
    for number, (what, caller, value) in enumerate(todo):
        if what == "push":
            here.add((caller, number))
            push(subject, (caller, number), priority=value, cost=1 + number)
        elif what == "remove" and here:
            chosen = sorted(here)[value % len(here)]
            here.remove(chosen)
            assert subject.remove(chosen)
        elif what == "pop":
            head = subject.peek()
            assert subject.pop() == head
            assert (head is None) == (not here)
            here.discard(head or ("", 0))
        assert set(subject) == here
        assert len(subject) == len(here)
    assert set(drained(subject)) == here


@pytest.mark.parametrize("arrivals", [1, 2])
@given(first=st.integers(1, 50), costs=st.lists(st.integers(1, 50), min_size=150, max_size=150))
def test_no_caller_starves(arrivals: int, first: int, costs: list[int]) -> None:
    """The caller that was served most, while new callers and its peers keep arriving."""
    subject = queue()
    push(subject, ("victim", 0), cost=first)
    subject.pop()
    push(subject, ("victim", 1), cost=1)
    for number, cost in enumerate(costs):
        for extra in range(arrivals):
            push(subject, (f"new-{number}-{extra}", 0), cost=cost)
        if subject.pop() == ("victim", 1):
            return
    pytest.fail("the victim was never served")

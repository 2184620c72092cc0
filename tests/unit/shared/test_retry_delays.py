"""What a refused caller is told is true: whoever comes back when told mostly gets in."""

import heapq
import random
from collections.abc import Iterator

import pytest

from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from mlxmesh_shared.resilience.retries import (
    MAX_DELAY_S,
    MIN_DELAY_S,
    SLACK,
    RetryDelayEstimator,
)


def busy(held: int, *, ends: int, gap_s: float, servers: int | None = None) -> RetryDelayEstimator:
    """All places held, and one given back and taken again every gap_s until now, which is 0."""
    subject = RetryDelayEstimator(servers=servers)
    began_s = -gap_s * ends
    for _ in range(held):
        subject.acquire(began_s)
    for number in range(1, ends + 1):
        subject.release(began_s + number * gap_s)
        subject.acquire(began_s + number * gap_s)
    return subject


@pytest.mark.parametrize("held", [1, 8, 64])
@pytest.mark.parametrize("gap_s", [0.2, 0.5, 4.0])
def test_the_delay_is_a_little_over_the_time_between_two_places_that_come_free(
    held: int, gap_s: float
) -> None:
    assert busy(held, ends=100, gap_s=gap_s).schedule_retry(0.0) == pytest.approx(
        SLACK * gap_s, rel=0.15
    )


def test_places_that_come_free_together_count_as_those_that_come_one_by_one() -> None:
    subject = RetryDelayEstimator()
    for wave in range(10):
        for _ in range(64):
            subject.acquire(wave * 6.4)
        for _ in range(64):
            subject.release((wave + 1) * 6.4)
    for _ in range(64):
        subject.acquire(64.0)
    assert [subject.schedule_retry(64.0) for _ in range(20)][-1] == pytest.approx(
        20 * SLACK * 0.1, rel=0.2
    )


def test_those_who_only_wait_free_no_places() -> None:
    assert busy(40, ends=400, gap_s=0.5, servers=8).schedule_retry(0.0) == pytest.approx(
        SLACK * 0.5, rel=0.15
    )


def test_each_is_told_a_later_time_than_the_one_before() -> None:
    subject = busy(4, ends=200, gap_s=0.5)
    told = [subject.schedule_retry(0.0) for _ in range(10)]
    assert told == pytest.approx([SLACK * 0.5 * number for number in range(1, 11)], rel=0.15)


def test_delays_stay_between_their_bounds() -> None:
    assert busy(4, ends=2000, gap_s=0.0001).schedule_retry(0.0) == pytest.approx(MIN_DELAY_S)
    assert busy(1, ends=3, gap_s=900.0).schedule_retry(0.0) == MAX_DELAY_S
    slow = busy(2, ends=20, gap_s=20.0)
    assert [slow.schedule_retry(0.0) for _ in range(9)][3:] == [MAX_DELAY_S] * 6


def test_nothing_ends_and_the_delay_grows() -> None:
    subject = busy(4, ends=100, gap_s=0.5)
    assert subject.schedule_retry(30.0) > 2 * 0.5
    assert subject.schedule_retry(1e9) == MAX_DELAY_S


def test_a_quiet_hour_changes_nothing() -> None:
    subject = busy(1, ends=100, gap_s=2.0)
    subject.release(0.0)
    subject.acquire(3600.0)
    assert subject.schedule_retry(3600.0) == pytest.approx(SLACK * 2.0, rel=0.15)


def test_a_place_is_kept_for_who_is_about_to_come() -> None:
    subject = busy(4, ends=100, gap_s=1.0)
    due_s = subject.schedule_retry(0.0)
    assert subject.may_acquire(1, now_s=due_s - 0.5)
    assert not subject.may_acquire(1, now_s=due_s - 0.1)
    assert subject.may_acquire(2, now_s=due_s - 0.1)
    assert subject.may_acquire(1, now_s=due_s + 0.1)
    assert not subject.may_acquire(0, now_s=due_s + 0.1)


def test_who_does_not_come_loses_the_place_kept() -> None:
    subject = busy(4, ends=100, gap_s=1.0)
    due_s = subject.schedule_retry(0.0)
    assert subject.may_acquire(1, now_s=due_s + 0.3)
    assert subject.may_acquire(1, now_s=due_s + 0.3)


class Overload:
    """Clients that obey what they are told, on a simulated clock."""

    def __init__(self, *, places: int, hold_s: float, seed: int) -> None:
        self.places = ConcurrencyLimiter(places)
        self.hold_s = hold_s
        self.chance = random.Random(seed)
        self.events: list[tuple[float, int, str, int]] = []
        self.number = 0
        self.refusals: dict[int, int] = {}
        """By client: how often it was refused, of those that got in in the end."""

    def at(self, when_s: float, what: str, attempts: int = 0) -> None:
        self.number += 1
        heapq.heappush(self.events, (when_s, self.number, what, attempts))

    def until(self, end_s: float) -> Iterator[float]:
        while self.events and self.events[0][0] < end_s:
            now_s, number, what, attempts = heapq.heappop(self.events)
            if what == "end":
                self.places.release("anyone", now_s)
            elif (delay_s := self.places.try_acquire("anyone", now_s)) is None:
                self.refusals[number] = attempts
                self.at(now_s + self.chance.expovariate(1 / self.hold_s), "end")
            else:
                self.at(now_s + delay_s + self.chance.uniform(0.001, 0.02), "ask", attempts + 1)
            yield now_s

    def obedient_share(self) -> float:
        """Of those who were refused: how many got in the first time that they came back."""
        back = [count for count in self.refusals.values() if count]
        assert len(back) > 100
        return sum(count == 1 for count in back) / len(back)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("overload", [1.1, 2.0])
def test_who_comes_back_when_told_mostly_gets_in_at_once(overload: float, seed: int) -> None:
    """200 seconds of arrivals above what 20 places can take; few places stand empty meanwhile."""
    subject = Overload(places=20, hold_s=2.0, seed=seed)
    now_s = 0.0
    while now_s < 200:
        now_s += subject.chance.expovariate(overload * 20 / 2.0)
        subject.at(now_s, "ask")
    for _ in subject.until(200):
        pass
    assert subject.obedient_share() > 0.75
    assert len(subject.refusals) > 0.85 * 200 * 20 / 2.0


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_that_comes_at_once_is_spread_over_the_time_it_takes(seed: int) -> None:
    subject = Overload(places=20, hold_s=2.0, seed=seed)
    for _ in range(200):
        subject.at(100.0, "ask")
    for _ in subject.until(400):
        pass
    assert len(subject.refusals) == 200
    assert subject.obedient_share() > 0.9

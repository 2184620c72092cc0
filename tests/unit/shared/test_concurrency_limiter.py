"""Who gets one of a bounded number of places."""

from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter


def fill(subject: ConcurrencyLimiter, caller: str, count: int, now_s: float = 0.0) -> int:
    """How many of so many places a caller gets."""
    return sum(subject.try_acquire(caller, now_s) is None for _ in range(count))


def test_nobody_else_asks_and_one_caller_may_have_all() -> None:
    subject = ConcurrencyLimiter(8)
    assert fill(subject, "a", 10) == 8
    assert subject.held == 8


def test_a_caller_has_no_more_than_its_own_limit() -> None:
    subject = ConcurrencyLimiter(8, per_caller=6)
    assert fill(subject, "a", 10) == 6
    assert fill(subject, "b", 10) == 2


def test_a_place_that_comes_free_goes_to_who_has_less() -> None:
    subject = ConcurrencyLimiter(4)
    fill(subject, "greedy", 4)
    delay_s = subject.try_acquire("late", 1.0)
    assert delay_s is not None
    for second in (1.1, 1.2):
        subject.release("greedy", second)
        assert subject.try_acquire("greedy", second) is not None
    assert subject.try_acquire("late", 1.0 + delay_s) is None


def test_places_that_come_free_make_the_shares_equal() -> None:
    """All ask every quarter second, the one that holds most always first."""
    subject = ConcurrencyLimiter(9)
    held = {"a": fill(subject, "a", 9), "b": 0, "c": 0}
    for step in range(1, 101):
        now_s = step * 0.25
        for caller in ("a", "b", "c"):
            held[caller] += subject.try_acquire(caller, now_s) is None
        assert sum(held.values()) <= 9
        if step % 4 == 0:
            most = max(held, key=lambda caller: held[caller])
            subject.release(most, now_s)
            held[most] -= 1
    assert sorted(held.values()) in ([2, 3, 3], [3, 3, 3])


def test_who_stopped_asking_holds_nobody_back() -> None:
    subject = ConcurrencyLimiter(2)
    fill(subject, "a", 2)
    delay_s = subject.try_acquire("gone", 0.0)
    assert delay_s is not None
    subject.release("a", 1.0)
    assert subject.try_acquire("a", delay_s + 10) is None


def test_a_refused_crowd_of_callers_is_remembered_in_bounded_memory() -> None:
    subject = ConcurrencyLimiter(1)
    fill(subject, "a", 1)
    for number in range(2000):
        assert subject.try_acquire(f"caller-{number}", 0.0) is not None
    subject.release("a", 0.0)
    assert subject.try_acquire("caller-1999", 500.0) is None

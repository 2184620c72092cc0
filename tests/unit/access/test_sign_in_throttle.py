"""Attempts to sign in are delayed more and more, in bounded memory, and nobody locks others out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_access.sign_in.throttle import (
    BY_HOST,
    BY_NAME,
    BY_NAME_AND_HOST,
    FORGET_AFTER_S,
    SIGN_UPS_BY_HOST,
    Failures,
    Limit,
    SignInThrottle,
    Throttle,
    network_of,
)
from mlxmesh_shared.errors import TooManyRequests


def delay_s(throttle: SignInThrottle, name: str, host: str, now_s: float) -> float:
    """Attempts once; 0 if that was allowed."""
    try:
        throttle.begin(name, host, now_s)
    except TooManyRequests as refused:
        return refused.retry_delay_s or -1
    return 0


def wait_and_fail(throttle: SignInThrottle, name: str, host: str, now_s: float) -> float:
    """Fails once, as soon as that is allowed; the time of the attempt."""
    refused_for_s = delay_s(throttle, name, host, now_s)
    if refused_for_s:
        assert delay_s(throttle, name, host, now_s + refused_for_s) == 0
    return now_s + refused_for_s


def test_the_first_attempts_are_free_and_the_delay_of_the_others_doubles() -> None:
    throttle = SignInThrottle()
    free = [delay_s(throttle, "ada", "10.0.0.1", 0) for _ in range(BY_NAME_AND_HOST.free)]
    assert free == [0] * BY_NAME_AND_HOST.free
    delays: list[float] = []
    now_s = 0.0
    for _ in range(12):
        delays.append(delay_s(throttle, "ada", "10.0.0.1", now_s))
        now_s += delays[-1]
        assert delay_s(throttle, "ada", "10.0.0.1", now_s) == 0
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_a_refused_attempt_does_not_make_the_delay_longer() -> None:
    throttle = SignInThrottle()
    for _ in range(BY_NAME_AND_HOST.free):
        throttle.begin("ada", "10.0.0.1", 0)
    assert [delay_s(throttle, "ada", "10.0.0.1", 0.5) for _ in range(100)] == [0.5] * 100
    assert delay_s(throttle, "ada", "10.0.0.1", 1) == 0


def test_a_success_forgets_the_failures_before_it() -> None:
    throttle = SignInThrottle()
    for _ in range(100):
        for _ in range(BY_NAME_AND_HOST.free):
            throttle.begin("ada", "10.0.0.1", 0)
            throttle.succeeded("ada", "10.0.0.1")


def test_failures_are_forgotten_after_a_while() -> None:
    throttle = SignInThrottle()
    now_s = 0.0
    for _ in range(20):
        now_s = wait_and_fail(throttle, "ada", "10.0.0.1", now_s)
    assert delay_s(throttle, "ada", "10.0.0.1", now_s + 1) > 60
    free = [delay_s(throttle, "ada", "10.0.0.1", now_s + FORGET_AFTER_S) for _ in range(5)]
    assert free == [0] * 5


def test_many_hosts_together_get_few_guesses_of_one_name() -> None:
    throttle = SignInThrottle()
    guesses = sum(
        delay_s(throttle, "ada", f"10.{host >> 8}.{host & 255}.1", second) == 0
        for second in range(600)
        for host in range(50 * second, 50 * second + 50)
    )
    assert guesses <= BY_NAME.free + 600 / BY_NAME.max_delay_s + 5


def test_one_host_gets_few_guesses_of_many_names() -> None:
    throttle = SignInThrottle()
    guesses = sum(
        delay_s(throttle, f"user-{second}-{number}", "10.0.0.1", second) == 0
        for second in range(600)
        for number in range(20)
    )
    assert guesses <= BY_HOST.free + 600 / BY_HOST.max_delay_s + 6


def test_a_host_that_is_known_is_not_locked_out_by_others() -> None:
    """Attackers of the name, and of other names from the same host."""
    throttle = SignInThrottle()
    throttle.begin("ada", "10.0.0.1", 0)
    throttle.succeeded("ada", "10.0.0.1")
    for number in range(5000):
        delay_s(throttle, "ada", f"10.1.{number >> 8}.{number & 255}", number / 10)
        delay_s(throttle, f"user-{number}", "10.0.0.1", number / 10)
    assert delay_s(throttle, "ada", "10.9.9.9", 500) > 0
    assert delay_s(throttle, "bob", "10.0.0.1", 500) > 0
    assert delay_s(throttle, "ada", "10.0.0.1", 500) == 0


def test_where_a_name_is_unknown_others_delay_it_only_a_little() -> None:
    throttle = SignInThrottle()
    for number in range(100_000):
        delay_s(throttle, "ada", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", number)
    assert 0 < delay_s(throttle, "ada", "10.9.9.9", 99_999.5) <= BY_NAME.max_delay_s


def test_an_own_account_does_not_pay_for_guesses_of_others() -> None:
    """A success undoes its own attempt only, else an attacker would sign in between guesses."""
    throttle = SignInThrottle()
    guesses = 0
    for number in range(1000):
        if delay_s(throttle, "mallory", "10.0.0.1", 0) == 0:
            throttle.succeeded("mallory", "10.0.0.1")
        guesses += delay_s(throttle, f"user-{number}", "10.0.0.1", 0) == 0
    assert guesses <= BY_HOST.free


def test_parallel_attempts_gain_nothing() -> None:
    """Each counts from its beginning, before it is known whether it fails."""
    throttle = SignInThrottle()
    begun = [delay_s(throttle, "ada", "10.0.0.1", 0) == 0 for _ in range(100)]
    assert sum(begun) == BY_NAME_AND_HOST.free


def test_memory_is_bounded() -> None:
    throttle = SignInThrottle(max_subjects=100)
    for number in range(5000):
        name, host = f"user-{number}", f"10.0.{number >> 8}.{number & 255}"
        throttle.begin(name, host, number)
        throttle.succeeded(name, host)
        throttle.begin(name, host, number)
    assert throttle.subjects <= 400


def test_the_recent_failures_are_kept() -> None:
    failures = Failures(Limit(free=1, max_delay_s=10), max_subjects=2)
    for now_s, subject in enumerate(("a", "b", "a", "c")):
        failures.add(subject, now_s)
    assert [failures.wait_s(subject, 4) > 0 for subject in ("a", "b")] == [False, False]
    assert len(failures) == 2
    assert failures.wait_s("a", 3) == 1


@given(st.lists(st.tuples(st.integers(0, 600), st.booleans()), max_size=60))
def test_after_the_told_delay_an_attempt_is_always_allowed(
    attempts: list[tuple[int, bool]],
) -> None:
    throttle = SignInThrottle()
    now_s = 0.0
    for pause_s, succeeds in attempts:
        now_s = wait_and_fail(throttle, "ada", "10.0.0.1", now_s + pause_s)
        if succeeds:
            throttle.succeeded("ada", "10.0.0.1")


@given(st.integers(0, 10**9))
def test_a_delay_is_never_longer_than_its_limit(failures: int) -> None:
    assert 0 <= BY_NAME_AND_HOST.delay_s(failures) <= BY_NAME_AND_HOST.max_delay_s


def test_each_subject_has_a_limit_of_its_own() -> None:
    throttle = Throttle(SIGN_UPS_BY_HOST)
    for _ in range(SIGN_UPS_BY_HOST.free):
        throttle.begin("10.0.0.1", 0)
    with pytest.raises(TooManyRequests) as refused:
        throttle.begin("10.0.0.1", 0)
    assert "wait 1 s before" in refused.value.message
    throttle.begin("10.0.0.2", 0)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_ipv6_counts_by_network(host: str, network: str) -> None:
    assert network_of(host) == network

"""What follows a failed attempt, for every fault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_jobs.domain.recovery import STRATEGIES, Counter, Counts, Fault, RetryPolicy, decide

POLICY = RetryPolicy(max_attempts=3, initial_delay_ms=1_000, max_delay_ms=5_000)
NAMES = {
    Fault.JOB: "none",
    Fault.TRANSIENT: "retry",
    Fault.TIMEOUT: "job_timeout",
    Fault.SERVICE_UNAVAILABLE: "service_unavailable",
    Fault.WORKER_STUCK: "worker_stuck",
    Fault.WORKER_LOST: "worker_lost",
}
ATTEMPTS = {
    Fault.JOB: 1,
    Fault.TRANSIENT: 3,
    Fault.TIMEOUT: 3,
    Fault.SERVICE_UNAVAILABLE: 100,
    Fault.WORKER_STUCK: 3,
    Fault.WORKER_LOST: 10,
}


def test_every_fault_has_a_strategy():
    assert {fault: strategy.name for fault, strategy in STRATEGIES.items()} == NAMES
    assert set(STRATEGIES) == set(Fault)


@pytest.mark.parametrize("fault", list(Fault))
def test_a_job_fails_after_so_many_attempts_with_one_fault(fault: Fault):
    counts = Counts()
    for _ in range(ATTEMPTS[fault] - 1):
        decision = decide(fault, counts, POLICY)
        assert decision.delay_ms is not None
        assert (decision.recovery, decision.reason) == (NAMES[fault], "")
        counts = decision.counts
    last = decide(fault, counts, POLICY)
    assert last.delay_ms is None
    poisoned = fault is Fault.WORKER_LOST
    assert last.recovery == ("poisoned" if poisoned else NAMES[fault])
    assert last.reason == ("POISONED" if poisoned else "")


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_adds_to_its_counter_only(fault: Fault):
    counted = decide(fault, Counts(failures=1, unavailable=1, losses=1), POLICY).counts
    own = STRATEGIES[fault].counts
    assert {each: counted.of(each) for each in Counter} == {
        each: 2 if each is own else 1 for each in Counter
    }


def test_an_unavailable_back_end_uses_up_no_attempt_of_the_job():
    decision = decide(Fault.SERVICE_UNAVAILABLE, Counts(failures=2), POLICY)
    assert decision.delay_ms is not None
    assert decision.counts.failures == 2


@pytest.mark.parametrize(
    ("failures", "jitter", "delay_ms"),
    [(0, 0, 1_000), (1, 0, 2_000), (0, 1, 1_200), (0, -1, 800), (1, -1, 1_600)],
)
def test_the_delay_doubles_and_varies_by_a_fifth(failures: int, jitter: float, delay_ms: int):
    decision = decide(Fault.TRANSIENT, Counts(failures=failures), POLICY, jitter=jitter)
    assert decision.delay_ms == delay_ms


def test_the_delay_has_a_maximum():
    decision = decide(Fault.SERVICE_UNAVAILABLE, Counts(unavailable=50), POLICY, jitter=0)
    assert decision.delay_ms == 5_000


def test_what_ran_with_a_lost_worker_follows_at_once():
    assert decide(Fault.WORKER_LOST, Counts(), POLICY).delay_ms == 0


@given(
    st.sampled_from(list(Fault)),
    st.builds(Counts, failures=st.integers(0, 200), unavailable=st.integers(0, 200)),
    st.integers(0, 3_600_000),
    st.integers(0, 86_400_000),
)
def test_a_delay_is_never_longer_than_a_fifth_above_the_maximum(
    fault: Fault, counts: Counts, initial_delay_ms: int, max_delay_ms: int
):
    policy = RetryPolicy(
        max_attempts=100, initial_delay_ms=initial_delay_ms, max_delay_ms=max_delay_ms
    )
    delay_ms = decide(fault, counts, policy).delay_ms
    assert delay_ms is None or 0 <= delay_ms <= max_delay_ms * 1.2 + 1

"""Prefill beside decode from 2 to 500 ms a step, in virtual time: the figures never vary."""

import pytest

from tests.bench.sim_prefill import (
    MACHINES,
    Arrival,
    Machine,
    burst,
    judge,
    machine,
    prefill_bound_s,
    simulate,
)

SLOW = ("200 ms, 150/s", "500 ms, 50/s")


@pytest.mark.parametrize("each", MACHINES, ids=lambda each: each.name)
def test_the_policy_stays_near_its_bounds(each: Machine) -> None:
    verdict = judge(each)
    # Half of the prompts have their first token after about half of the time of all.
    assert verdict.burst_p50 <= 1.7
    assert verdict.busy_burst_p50 <= 1.85
    # Where prompts take seconds, the running sequences get steps in between.
    assert verdict.burst_p99 <= (1.65 if each.name in SLOW else 1.4)
    assert verdict.busy_burst_p99 <= (1.8 if each.name in SLOW else 1.6)
    assert verdict.burst_tokens_per_second >= (0.84 if each.name in SLOW else 0.95)
    assert verdict.busy_burst_gap_s <= max(1.1, 5 * each.decode(40))
    assert verdict.loop_32_over_8 >= 1.3
    # Reading 500 tokens begins with small slices, until their cost is known.
    assert verdict.long_500 <= 3
    assert verdict.long_4000 <= 2.75
    assert verdict.long_gap <= 3.1


@pytest.mark.parametrize("each", MACHINES, ids=lambda each: each.name)
def test_the_first_tokens_of_a_burst_do_not_wait_for_all(each: Machine) -> None:
    outcome = simulate(each, burst(32))
    assert outcome.ttft_s(0.25) <= 0.6 * outcome.ttft_s(0.99)
    assert outcome.ttft_s(0.5) <= 0.8 * outcome.ttft_s(0.99)


def test_one_request_waits_for_its_own_prefill_and_one_step() -> None:
    each = machine(decode_ms=10, tokens_per_second=1000)
    outcome = simulate(each, [Arrival(5.0, 64, 3)])
    assert outcome.ttft_s(1) == pytest.approx(prefill_bound_s(each, 1))
    assert list(outcome.streams[0].gaps_s) == pytest.approx([each.decode(1)] * 2)


def test_equal_code_gives_equal_figures() -> None:
    assert judge(MACHINES[2]) == judge(MACHINES[2])


def test_an_engine_that_measured_nothing_yet_serves_a_burst() -> None:
    outcome = simulate(MACHINES[4], burst(32), warm=False)
    assert outcome.ttft_s(0.99) <= 1.5 * prefill_bound_s(MACHINES[4], 32)

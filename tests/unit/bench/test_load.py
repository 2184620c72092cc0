"""What a load's outcomes come to: medians of rounds, the cost of a token, what failed."""

import json

import pytest

from mlxmesh_shared.errors import MeshError, QueueFull, ServiceUnavailable
from tests.bench.bench_streams import token_row, verdicts
from tests.bench.load import Outcome, Run, cost_row
from tests.bench.samplers import greedy, mixed


def run(streams: int, wall_s: float, *failed: MeshError) -> Run:
    outcomes = [Outcome(tokens=10, messages=5, first_s=0.1, longest_gap_s=0.2)] * streams
    outcomes += [Outcome(error=error) for error in failed]
    cpu_s = {"gateway": 0.001, "generation": 0.002, "engine": 0.003, "client": 0.004}
    return Run(wall_s, outcomes, {name: streams * each for name, each in cpu_s.items()})


def test_a_load_is_the_median_of_its_rounds():
    row = cost_row({"streams": 8}, [run(8, 1), run(8, 2), run(8, 8)])
    assert (row["streams"], row["tokens/s"], row["per message"]) == (8, 40, 2)
    assert row["gateway us"] == pytest.approx(200)
    assert row["at 2 cores"] == pytest.approx(2000)
    assert (row["ttft p99 ms"], row["max gap ms"]) == (100, 200)


def test_failures_are_counted_and_leave_the_times_alone():
    told, silent = QueueFull("full", retry_delay_s=1), ServiceUnavailable("gone")
    row = cost_row({"streams": 4}, [run(2, 1, told, silent)])
    assert (row["failed"], row["no RetryInfo"], row["ttft p50 ms"]) == (2, 1, 100)


def test_a_load_of_which_nothing_came_back_is_no_row_but_its_failure():
    with pytest.raises(ServiceUnavailable, match="gone"):
        cost_row({"streams": 1}, [run(0, 1, ServiceUnavailable("gone"))])


def test_a_token_costs_less_where_the_prompt_counts_too():
    row = token_row({"streams": 2}, [run(2, 1), run(2, 1)], 90)
    assert row["engine us/new token"] == pytest.approx(300)
    assert row["all us/new token"] == pytest.approx(1000)
    assert row["all us/token read or new"] == pytest.approx(100)


def test_the_most_streams_are_judged_beside_32_and_by_who_failed_unasked():
    by_streams = {32: [run(32, 1)], 256: [run(256, 16, ServiceUnavailable("gone"))]}
    ratio, lost = verdicts(by_streams)
    assert (ratio.measured, ratio.met) == (0.5, False)
    assert (lost.measured, lost.met) == (1, False)


def test_32_clients_have_32_different_samplers():
    assert len({json.dumps(mixed(number)) for number in range(1, 33)}) == 32
    assert greedy(1) == greedy(2) == {}

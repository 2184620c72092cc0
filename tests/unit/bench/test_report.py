"""The figures of the comparison: medians, ratios by round, the best peer, the table."""

import json
from collections.abc import Sequence
from io import StringIO

import pytest
from rich.console import Console

from tests.bench.peers.report import Measured, document, figures, rows, table, verdicts
from tests.bench.samples import Sample, percentile

VARIANTS = {"as shipped": 5.0, "given ours": 1.25}


def samples(*speeds: float, ttft_s: Sequence[float] = (1.0,)) -> list[Sample]:
    return [Sample(speed, sorted(ttft_s)) for speed in speeds]


def server(name: str, variant: str, speed: float, ttft_s: float, failure: str = "") -> Measured:
    return Measured(name, variant, {32: samples(speed, ttft_s=[ttft_s])}, failure)


MESH = server("mlxmesh", "default", 1000, 0.2)


@pytest.mark.parametrize(
    ("share", "expected"), [(0, 1), (0.5, 51), (0.98, 99), (0.99, 100), (1, 100)]
)
def test_percentile_of_a_hundred_values(share: float, expected: float):
    assert percentile([float(n) for n in range(1, 101)], share) == expected


def test_percentile_of_one_value_is_that_value():
    assert {percentile([7.0], share) for share in (0, 0.5, 0.99)} == {7.0}


def test_figures_are_medians_over_rounds():
    own = samples(10, 1000, 20, ttft_s=[0.1, 0.2, 0.9])
    found = figures(own, samples(40, 40, 40, ttft_s=[0.3]))
    assert found is not None
    assert (found.tokens_per_second, found.ttft_p50_ms, found.ttft_p99_ms) == (20, 200, 900)
    assert found.mesh_ttft_p99 == pytest.approx(1 / 3)


def test_ratios_are_taken_round_by_round():
    """A slow round slows both sides; a ratio of medians would not see that."""
    found = figures(samples(10, 20, 40), samples(100, 40, 40))
    assert found is not None
    assert found.mesh_speed == 2


def test_a_server_that_dropped_out_is_compared_over_the_rounds_it_made():
    found = figures(samples(10), samples(30, 90))
    assert found is not None
    assert found.mesh_speed == 3


def test_no_samples_give_no_figures():
    assert figures([], samples(1)) is None
    assert rows([Measured("smg", "as shipped", {}, "not installed")], MESH)[0][1] == {}


def test_the_best_peer_of_each_variant_is_the_fastest_and_ttft_has_one_best_of_all():
    servers = [
        MESH,
        server("slow", "as shipped", 100, 0.3),
        server("fast", "as shipped", 250, 0.8),
        server("fast", "given ours", 500, 0.5),
    ]
    speed, given, ttft = verdicts(rows(servers, MESH), VARIANTS, streams=32)
    assert (speed.name, speed.measured, speed.met) == (
        "tokens/s at 32 against fast, as shipped",
        4.0,
        False,
    )
    assert (given.measured, given.met) == (2.0, True)
    assert ttft.name == "TTFT p99 at 32 against slow, as shipped"
    assert (ttft.measured, ttft.met) == (pytest.approx(2 / 3), False)


def test_a_variant_that_nobody_was_measured_in_gets_no_verdict():
    servers = [MESH, server("fast", "as shipped", 100, 0.4), Measured("x", "given ours", {})]
    judged = verdicts(rows(servers, MESH), VARIANTS, streams=32)
    assert [verdict.met for verdict in judged] == [True, True]
    assert verdicts(rows([MESH], MESH), VARIANTS, streams=32) == []


def test_the_table_shows_every_server_also_the_failed():
    failed = Measured("smg", "as shipped", {}, "not started")
    servers = [MESH, server("fast", "given ours", 500, 0.5), failed]
    console = Console(width=160, file=StringIO())
    with console.capture() as printed:
        console.print(table(rows(servers, MESH), [32]))
    lines = [line.split() for line in printed.get().splitlines()]
    assert lines[2] == "fast given ours 500 500 ms 500 ms 2.00 0.40".split()
    assert lines[3] == "smg as shipped - - - - -".split()


def test_the_document_keeps_samples_failures_and_verdicts():
    servers = [MESH, server("fast", "as shipped", 100, 0.4, failure="died in round 2")]
    found = rows(servers, MESH)
    written = document(found, verdicts(found, VARIANTS, streams=32), {"rounds": 1})
    kept = json.loads(json.dumps(written))
    fast = kept["servers"][1]
    assert (kept["rounds"], fast["failure"]) == (1, "died in round 2")
    assert fast["figures"]["32"]["mesh_speed"] == 10
    assert fast["samples"]["32"][0]["ttft_s"] == [0.4]
    assert [each["met"] for each in kept["targets"]] == [True, True]

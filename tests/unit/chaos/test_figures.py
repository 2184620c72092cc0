"""From histories to figures, and from figures to the page."""

from __future__ import annotations

import pytest

from tests.bench.results import Findings, Result
from tests.chaos.__main__ import chosen
from tests.chaos.checker import by_request
from tests.chaos.clients import mixed_requests
from tests.chaos.figures import Disturbance, Targets, findings, gaps_s
from tests.chaos.history import OK, Call, Ending, Message
from tests.chaos.report import BEGIN, END, Outcome, Report, put_into


def call(call_id: str, times_s: list[float], *, resumptions: int = 0, status: str = OK) -> Call:
    """A call whose messages after the first bring a token each."""
    messages = [
        Message(number, at_s, (number,) if number > 1 else ())
        for number, at_s in enumerate(times_s, 1)
    ]
    ending = Ending("LENGTH", len(times_s) - 1, resumptions) if status == OK else None
    return Call(call_id, "{}", 0.0, messages, status, times_s[-1], ending)


REFERENCE = by_request([call("reference", [1.0, 2.0, 3.0, 4.0])])
MOVED = call("round-1-0", [11.0, 12.0, 12.4, 12.5], resumptions=1)
UNMOVED = call("round-1-1", [11.0, 12.0, 14.0, 15.0])
FAILED = call("round-1-2", [11.0, 12.0], status="UNAVAILABLE/ENGINE_LOST")
OTHER_ROUND = call("round-11-0", [11.0, 12.0, 18.0, 19.0], resumptions=1)
FAULT = Disturbance("kill", "round-1", fault_s=12.1, detected_s=12.11)


def measured(found: Findings) -> dict[str, float]:
    return {result.name: result.measured for result in found.results}


def test_a_pause_is_that_of_a_call_that_moved_in_this_round() -> None:
    history = [MOVED, UNMOVED, FAILED, OTHER_ROUND]
    assert gaps_s(history, [FAULT]) == [pytest.approx(0.4)]


def test_figures_stand_beside_their_targets() -> None:
    found = findings(
        [MOVED, UNMOVED, FAILED], REFERENCE, [FAULT], Targets(gap_ms=300, detection_ms=50)
    )
    assert measured(found) == {
        "calls failed": 1,
        "tokens missing": 0,
        "tokens repeated or wrong": 0,
        "silent truncations": 0,
        "other faults": 0,
        "gap p99": pytest.approx(400),
        "detection p99": pytest.approx(10),
    }
    assert [one.name for one in found.results if not one.met] == ["calls failed", "gap p99"]
    (row,) = found.tables["by fault"]
    assert (row["rounds"], row["calls"], row["moved"], row["failed"]) == (1, 3, 1, 1)
    assert "violations" not in found.tables


def test_lost_tokens_are_counted_and_told() -> None:
    short = call("round-1-0", [1.0, 2.0, 3.0])
    found = findings([short], REFERENCE, [FAULT], Targets())
    assert measured(found)["tokens missing"] == 1
    assert found.tables["violations"][0]["call"] == "round-1-0"


def report() -> Report:
    results = [Result("calls failed", 2, 0, "", at_least=False)]
    findings = Findings(results, {"by fault": [{"fault": "kill", "rounds": 3, "calls": 1500}]})
    return Report(
        "some machine",
        [
            Outcome("engine-kill", "kill -9", 1.0, findings),
            Outcome("link-reset", "reset", 1.0, None, "TimeoutError: too late"),
        ],
    )


def test_the_page_gets_a_row_for_each_figure_and_each_failure() -> None:
    page = put_into(f"before\n{BEGIN}\nold\n{END}\nafter\n", report())
    assert page.startswith(f"before\n{BEGIN}\nMeasured on some machine.")
    assert page.endswith(f"{END}\nafter\n")
    assert "| kill -9 (`engine-kill`) | 3, 1,500 | calls failed | 2 | ≤ 0 | MISSED |" in page
    assert "TimeoutError: too late" in page
    assert "old" not in page


def test_figures_with_equal_values_share_a_row() -> None:
    names = ["calls failed", "tokens missing", "tokens repeated or wrong", "silent truncations"]
    zeros = [Result(name, 0, 0, "", at_least=False) for name in [*names, "other faults"]]
    results = [*zeros, Result("gap p99", 0, 500, "ms", at_least=False)]
    page = put_into(
        f"{BEGIN}\n{END}\n", Report("", [Outcome("x", "kill", 1.0, Findings(results, {}))])
    )
    assert "| kill (`x`) | | calls failed; stream faults | 0 | ≤ 0 | met |" in page
    assert "| | | gap p99 | 0 ms | ≤ 500 | met |" in page


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        put_into("nothing here", report())


def test_a_scenario_that_found_nothing_fails_the_run_and_a_missed_target_does_not() -> None:
    assert report().failed
    assert not Report("some machine", report().outcomes[:1]).failed


def test_scenarios_are_chosen_by_name() -> None:
    assert [scenario.name for scenario in chosen("link-reset, engine-kill")] == [
        "link-reset",
        "engine-kill",
    ]
    assert len({scenario.name for scenario in chosen("")}) == len(chosen(""))
    with pytest.raises(ValueError, match="there is no 'nothing'"):
        chosen("nothing")


def test_requests_of_a_crowd_differ_and_always_have_a_seed() -> None:
    requests = mixed_requests(16, max_tokens=5)
    assert len({request.SerializeToString() for request in requests}) == 16
    assert all(request.sampling.HasField("seed") for request in requests)

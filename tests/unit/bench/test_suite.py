"""All benchmarks together: which run, what is summed up, and that one's failure stops no other."""

from pathlib import Path

import pytest

from tests.bench.__main__ import run_all, run_part
from tests.bench.results import Findings, Result
from tests.bench.suite import PARTS, Outcome, Part, Suite, parts_for

BENCH = Path(__file__).resolve().parents[2] / "bench"
FOUND = Findings([Result("speed", 0.5, 1.0)], {"table": [{"streams": 1}]})
GOOD = Outcome(Part(1, "good", "bench_good"), 2.0, FOUND)
BAD = Outcome(Part(4, "bad", "bench_bad"), 3.0, failure="exited with code 1")
MISSING = Part(1, "nothing there", "bench_that_is_not_there")


def test_every_benchmark_is_a_part():
    scripts = {path.stem for path in BENCH.glob("bench_*.py")}
    beside_others = {"bench_peers", "bench_llama_cpp"}
    assert {part.module for part in PARTS} == scripts - {"bench_model"} - beside_others


def test_only_takes_the_parts_of_the_targets():
    assert {part.target for part in parts_for("1, 4")} == {1, 4}
    assert parts_for("") == list(PARTS)


def test_a_target_without_a_part_is_refused():
    with pytest.raises(ValueError, match="'2'; there are 1, 3, 4"):
        parts_for("1,2")


def test_the_summary_has_each_result_and_each_failure():
    good, bad = Suite("here", [GOOD, BAD]).summary()
    assert (good["target"], good["result"], good["verdict"]) == ("1", "speed", "MISSED")
    assert (bad["target"], bad["verdict"]) == ("4", "FAILED")
    assert bad["result"] == "bench_bad: exited with code 1"
    assert list(good) == list(bad)


def test_a_missed_target_is_no_failure_but_a_part_without_findings_is():
    assert not Suite("here", [GOOD]).failed
    assert Suite("here", [GOOD, BAD]).failed


def test_a_suite_comes_back_from_its_file(tmp_path: Path):
    suite = Suite("here", [GOOD, BAD])
    (tmp_path / "bench.json").write_text(suite.to_json())
    assert Suite.from_file(tmp_path / "bench.json") == suite


def test_a_table_is_found_by_its_part_and_title():
    suite = Suite("here", [GOOD, BAD])
    assert suite.table("bench_good", "table") == [{"streams": 1}]
    assert suite.table("bench_good", "another") == ()
    assert suite.table("bench_bad", "table") == ()


def test_a_part_that_fails_is_reported_and_the_rest_goes_on():
    suite = run_all([MISSING, MISSING], [])
    failures = [outcome.failure for outcome in suite.outcomes]
    assert failures == ["exited with code 1; its output says why"] * 2
    assert suite.failed


def test_a_part_that_does_not_end_is_interrupted():
    # It is killed before it has started anything.
    outcome = run_part(Part(1, "slow", "bench_mesh"), [], limit_s=0.01, stop_grace_s=0.01)
    assert outcome.failure == "no end within 0 s"
    assert outcome.findings is None

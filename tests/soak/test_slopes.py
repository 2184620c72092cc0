"""Slopes: what is a leak, what is noise, and where a life begins."""

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.soak.report import MAX_MB_PER_HOUR, judged, panels
from tests.soak.samples import ProcessSample, lives, read_lines
from tests.soak.slopes import MIN_JUDGED_S, MIN_SAMPLES, WARM_UP_S, Slope, settled, slope, verdict

MB, HOUR_S = 1e6, 3600.0


def noisy(
    per_hour: float, *, count: int = 200, noise: float = 1.0
) -> tuple[list[float], list[float]]:
    """Samples every 5 s around a line, in MB, with a burst of 100 MB in every tenth."""
    rng = random.Random(7)
    times_s = [5.0 * number for number in range(count)]
    values = [100 + per_hour * at_s / HOUR_S + rng.gauss(0, noise) for at_s in times_s]
    return times_s, [value + 100 * (n % 10 == 9) for n, value in enumerate(values)]


@pytest.mark.parametrize("per_hour", [0.0, 50.0, -20.0])
def test_the_slope_is_found_through_noise_and_bursts(per_hour: float) -> None:
    found = slope(*noisy(per_hour, count=720))
    assert found.per_s * HOUR_S == pytest.approx(per_hour, abs=2)
    assert found.low_per_s * HOUR_S < per_hour < found.high_per_s * HOUR_S


def test_thousands_of_samples_are_thinned() -> None:
    found = slope(*noisy(10.0, count=5000))
    assert found.per_s * HOUR_S == pytest.approx(10, abs=2)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Slope(1, 0, 9), "met"),
        (Slope(6, 1, 9), "unclear"),
        (Slope(6, 5.1, 9), "MISSED"),
    ],
)
def test_only_a_slope_that_is_certain_is_a_miss(found: Slope, said: str) -> None:
    assert verdict(found, 5, MIN_JUDGED_S) == said
    assert verdict(found, 5, MIN_JUDGED_S - 1) == "short"


def test_the_warm_up_is_a_fifth_of_a_life_and_at_least_a_minute() -> None:
    long = [10.0 * number for number in range(400)]
    assert long[settled(long)] == pytest.approx(0.2 * long[-1], abs=10)
    short = [5.0 * number for number in range(30)]
    assert short[settled(short)] == WARM_UP_S
    assert settled(short[: MIN_SAMPLES + 3]) == MIN_SAMPLES + 3
    assert settled([]) == 0


def line(at_s: float, *samples: ProcessSample) -> dict[str, Any]:
    return {
        "at_s": at_s,
        "processes": [asdict(sample) for sample in samples],
        "first_output": {"chat": {"calls": 2, "first_p50_ms": 10 + at_s, "first_p99_ms": 30.0}},
        "calls": 10,
        "failed": 1,
        "faults": [],
    }


def sample(role: str, pid: int, memory_mb: float, *, tasks: int = 9) -> ProcessSample:
    return ProcessSample(role, pid, 1.0, int(memory_mb * MB), 20, 5, tasks, 1.0)


def test_a_restarted_process_begins_anew_and_a_leak_in_one_life_is_named() -> None:
    lines = [
        line(
            at_s,
            sample("engine", 1 if at_s < 2000 else 2, 100 if at_s < 2000 else 300),
            sample("gateway", 3, 50 + at_s * 20 / HOUR_S),
        )
        for at_s in range(0, 4000, 5)
    ]
    findings = judged(lines)
    rows = {(row["process"], row["pid"]): row for row in findings.tables["slopes after warm-up"]}
    assert [rows["engine", pid]["verdict"] for pid in (1, 2)] == ["met", "met"]
    assert rows["gateway", 3]["verdict"] == "MISSED"
    memory = findings.results[0]
    assert (memory.wanted, memory.met) == (MAX_MB_PER_HOUR, False)
    assert memory.measured == pytest.approx(20, abs=0.5)
    assert [one.met for one in findings.results if "failed" in one.name] == [False]
    (latency,) = findings.tables["first output, first and last quarter"]
    assert float(latency["last quarter, p50 ms"]) > float(latency["first quarter, p50 ms"])
    assert next(panel.title for panel in panels(lines)) == "memory, MB"


@pytest.mark.parametrize("seconds", [50, 900])
def test_too_short_a_life_is_not_judged(seconds: int) -> None:
    lines = [line(at_s, sample("engine", 1, 100 + at_s)) for at_s in range(0, seconds, 5)]
    findings = judged(lines)
    assert findings.tables["lives"] == [{"judged": 0, "too short to judge": 1}]
    assert not [one for one in findings.results if "slope" in one.name]


def test_a_process_that_does_not_answer_keeps_its_role() -> None:
    lines = [line(0, sample("engine", 1, 5)), line(5, sample("spare", 1, 5, tasks=0))]
    (life,) = lives(lines)
    assert life.role == "engine"


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "soak.jsonl"
    path.write_text(json.dumps(line(0)) + "\n" + json.dumps(line(5))[:40])
    assert [each["at_s"] for each in read_lines(path)] == [0]

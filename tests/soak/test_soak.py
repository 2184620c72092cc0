"""The soak itself for some seconds: every kind of call ends well, every process is sampled."""

from pathlib import Path

import pytest

from tests.soak.__main__ import parsed, soak
from tests.soak.samples import lives, read_lines

KINDS = {
    "chat",
    "structured",
    "several outputs",
    "embedding",
    "job",
    "cancelled",
    "openai",
    "anthropic",
    "kserve",
    "connect",
}
"""Slow readers and watchers take longer than this run."""


@pytest.mark.chaos
async def test_a_short_soak_has_calls_of_every_kind_and_samples_of_every_process(
    tmp_path: Path,
) -> None:
    lines_file = str(tmp_path / "soak.jsonl")
    args = parsed(
        ["--lines", lines_file, "--fault-every", "0", "--interval", "1", "--pause", "0.2"]
    )
    args.minutes = 0.25
    await soak(args)

    lines = read_lines(args.lines)
    assert lines[-1]["failed"] == 0
    assert {kind for line in lines for kind in line["first_output"]} >= KINDS
    found = lives(lines)
    assert {life.role for life in found} >= {
        *("launcher", "gateway", "generation", "model", "runtime", "engine", "jobs", "worker")
    }
    for life, samples in found.items():
        served = life.role not in ("launcher",) and "." not in life.role
        if served and len(samples) > 3:
            assert max(sample.tasks for _, sample in samples) > 0, life


@pytest.mark.parametrize(
    "words",
    [
        ["--minutes", "0"],
        ["--interval", "0"],
        ["--pause", "-1"],
        ["--fault-every", "-1"],
    ],
)
def test_illegal_options_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(words)
    assert "must be" in capsys.readouterr().err

"""`mlxmesh experiment`: every command, its JSON, its errors and its plots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import Result

from mlxmesh.model.v1 import experiment_pb2 as pb
from mlxmesh.model.v1.experiment_pb2_grpc import add_ExperimentServiceServicer_to_server
from tests.command_line import mlxmesh
from tests.fakes.experiment_service import FakeExperiments, analysis
from tests.fakes.public_services import FakeGeneration, FakeModels
from tests.fakes.scripted_generation import serving_on_a_thread

START = ("start", "qwen", "--arm", "old=1:50", "--arm", "new=2:50")


@pytest.fixture
def fake() -> FakeExperiments:
    fake = FakeExperiments()
    fake.analysis = analysis()
    return fake


@pytest.fixture
def address(
    fake: FakeExperiments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of the service, which runs on a thread."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path / "no mesh"))
    for name in ("MLXMESH_API_KEY", "MLXMESH_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    service = (add_ExperimentServiceServicer_to_server, fake)
    with serving_on_a_thread(FakeGeneration(), FakeModels(), service) as address:
        yield address


def run(address: str, *arguments: str) -> Result:
    return mlxmesh("experiment", *arguments, "--address", address)


def shown(address: str, *arguments: str) -> Any:
    result = run(address, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_an_experiment_from_start_to_stop(address: str, fake: FakeExperiments) -> None:
    result = run(address, *START, "--by", "user", "--description", "a faster one?")
    assert result.exit_code == 0, result.output
    assert "e-0 is preparing (qwen@2 is being loaded)" in result.stdout
    started = fake.experiments["e-0"]
    assert [(arm.arm, arm.version, arm.weight) for arm in started.arms] == [
        ("old", 1, 50),
        ("new", 2, 50),
    ]
    assert shown(address, "show", "e-0")["subject"] == "user"
    assert "a faster one?" in run(address, "show", "e-0").stdout
    stopped = run(address, "stop", "e-0", "--winner", "new")
    assert "qwen:default means version 2" in stopped.stdout
    again = run(address, "stop", "e-0")
    assert again.exit_code == 1
    assert "has ended" in again.output


def test_every_page_is_listed_up_to_a_number(address: str) -> None:
    assert "mlxmesh experiment start" in run(address, "list").stdout
    for number in range(5):
        assert run(address, *START, "--id", f"e-{number}").exit_code == 0
    listed = shown(address, "list")["experiments"]
    assert [each["experiment_id"] for each in listed] == ["e-4", "e-3", "e-2", "e-1", "e-0"]
    assert len(shown(address, "list", "-n", "3")["experiments"]) == 3
    assert shown(address, "list", "other") == {"experiments": []}
    assert "old=@1:50% new=@2:50%" in run(address, "list").stdout


@pytest.mark.parametrize("arm", ["old", "old=1", "old=:50", "=1:50", "old=1:x", "old=-1:50"])
def test_an_arm_that_is_none_is_explained(address: str, arm: str) -> None:
    result = run(address, "start", "qwen", "--arm", arm, "--arm", "new=2:50")
    assert result.exit_code == 2
    assert "NAME=VERSION:WEIGHT" in result.output


def test_an_unknown_subject_or_metric_is_explained(address: str) -> None:
    result = run(address, *START, "--by", "request")
    assert result.exit_code == 2
    assert "session, user, principal" in result.output
    result = run(address, "analyze", "e-0", "--metric", "speed")
    assert result.exit_code == 2
    assert "tokens_per_second" in result.output


def test_the_analysis_has_figures_and_words(address: str, fake: FakeExperiments) -> None:
    run(address, *START)
    text = run(address, "analyze", "e-0", "--metric", "ttft", "--alpha", "0.01").stdout
    assert "-16.7%" in text
    assert "-35 to -15" in text
    assert text.rstrip().endswith("new is better by time to first token.")
    [asked] = fake.analyses
    assert (asked.alpha, list(asked.metrics)) == (0.01, [pb.EXPERIMENT_METRIC_TTFT])
    assert shown(address, "analyze", "e-0")["requests"] == {"old": "4010", "new": "4000"}


def test_an_analysis_without_intervals_says_not_yet(address: str, fake: FakeExperiments) -> None:
    run(address, *START)
    fake.analysis = analysis(finite=False)
    assert "not yet" in run(address, "analyze", "e-0").stdout
    assert shown(address, "analyze", "e-0")["metrics"]


@pytest.mark.parametrize("finite", [True, False])
def test_a_plot_is_drawn(
    address: str, fake: FakeExperiments, tmp_path: Path, *, finite: bool
) -> None:
    run(address, *START)
    fake.analysis = analysis(finite=finite)
    file = tmp_path / "plot.svg"
    result = run(address, "analyze", "e-0", "--plot", str(file))
    assert result.exit_code == 0, result.output
    assert ElementTree.parse(file).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("file", "message"), [("plot.txt", "must end with .svg"), ("no/plot.svg", "there is no folder")]
)
def test_a_plot_that_cannot_be_written_is_refused_first(
    address: str, fake: FakeExperiments, tmp_path: Path, file: str, message: str
) -> None:
    result = run(address, "analyze", "e-0", "--plot", str(tmp_path / file))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert fake.analyses == []


def test_a_score_is_reported(address: str, fake: FakeExperiments) -> None:
    assert "counted in e-0 for the arm new" in run(address, "score", "r-1", "0.8").stdout
    assert fake.scores == {"r-1": 0.8}
    assert run(address, "score", "gone", "1").exit_code == 1
    assert run(address, "score", "r-1", "1e7").exit_code == 2
    negative = run(address, "score", "r-2", "-1.5")
    assert negative.exit_code == 0, negative.output
    assert fake.scores["r-2"] == -1.5

"""`mlxmesh shadow`: start, list, stop and report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from mlxmesh.model.v1 import shadow_pb2 as pb
from mlxmesh.model.v1.shadow_pb2_grpc import (
    ShadowServiceServicer,
    add_ShadowServiceServicer_to_server,
)
from mlxmesh_cli.commands.app import app
from mlxmesh_shared.errors import MethodNotFound, ShadowNotFound
from tests.command_line import mlxmesh
from tests.fakes.public_services import FakeGeneration, FakeModels
from tests.fakes.scripted_generation import serving_on_a_thread

NAME = pb.DESCRIPTOR.services_by_name["ShadowService"].full_name
STARTED = Timestamp(seconds=1_790_000_000)


class FakeShadows(ShadowServiceServicer):
    """Shadows that a test set; pages hold one."""

    def __init__(self) -> None:
        self.runs: dict[str, pb.ShadowRun] = {}
        self.report = pb.GetShadowReportResponse()
        self.requests: list[Any] = []

    def _find(self, request: Any) -> pb.ShadowRun:
        self.requests.append(request)
        if request.shadow_id not in self.runs:
            raise ShadowNotFound("there is no such shadow", field="shadow_id")
        return self.runs[request.shadow_id]

    async def StartShadow(self, request: Any, context: Any) -> pb.StartShadowResponse:
        self.requests.append(request)
        run = pb.ShadowRun(
            shadow_id=request.shadow_id or "s-1",
            model=request.name,
            from_version=request.from_version,
            to_version=request.to_version,
            percent=request.percent,
            create_time=STARTED,
        )
        self.runs[run.shadow_id] = run
        return pb.StartShadowResponse(shadow=run)

    async def StopShadow(self, request: Any, context: Any) -> pb.StopShadowResponse:
        run = self._find(request)
        run.end_time.CopyFrom(STARTED)
        return pb.StopShadowResponse(shadow=run)

    async def ListShadows(self, request: Any, context: Any) -> pb.ListShadowsResponse:
        self.requests.append(pb.ListShadowsRequest.FromString(request.SerializeToString()))
        found = [run for run in self.runs.values() if request.name in ("", run.model)]
        at = int(request.page_token or 0)
        more = str(at + 1) if at + 1 < len(found) else ""
        return pb.ListShadowsResponse(shadows=found[at : at + 1], next_page_token=more)

    async def GetShadowReport(self, request: Any, context: Any) -> pb.GetShadowReportResponse:
        self.report.shadow.CopyFrom(self._find(request))
        return self.report

    async def RecordShadowPairs(self, request: Any, context: Any) -> Any:
        raise MethodNotFound("commands record nothing")


@pytest.fixture
def shadows() -> FakeShadows:
    return FakeShadows()


@pytest.fixture
def address(shadows: FakeShadows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the services, which run on a thread."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path / "no mesh"))
    for name in ("MLXMESH_API_KEY", "MLXMESH_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    service = (add_ShadowServiceServicer_to_server, shadows)
    serving = serving_on_a_thread(FakeGeneration(), FakeModels(), service, names=(NAME,))
    with serving as address:
        yield address


def run(address: str, *arguments: str) -> Result:
    return mlxmesh("shadow", *arguments, "--address", address)


def shown(address: str, *arguments: str) -> Any:
    result = run(address, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_shadow_is_started_as_asked(address: str, shadows: FakeShadows) -> None:
    result = run(address, "start", "qwen", "--to", "3", "--from", "2", "--percent", "2.5")
    assert result.exit_code == 0, result.output
    assert "2.5 % of qwen@2 at qwen@3" in result.stdout
    assert "mlxmesh shadow report s-1" in result.stdout
    [request] = shadows.requests
    assert request == pb.StartShadowRequest(name="qwen", to_version=3, from_version=2, percent=2.5)


def test_by_default_a_tenth_of_all_other_versions_is_repeated(address: str) -> None:
    started = shown(address, "start", "qwen", "--to", "3", "--id", "mine")
    assert (started["shadow_id"], started["from_version"], started["percent"]) == ("mine", 0, 10)
    again = run(address, "start", "qwen", "--to", "3")
    assert "every other version of qwen" in again.stdout


def test_an_illegal_part_names_its_field(address: str) -> None:
    result = run(address, "start", "qwen", "--to", "3", "--percent", "0")
    assert result.exit_code == 1
    assert "percent" in result.output


def test_shadows_are_listed_from_all_pages(address: str) -> None:
    assert "mlxmesh shadow start" in run(address, "list").stdout
    for shadow_id in ("one", "two"):
        shown(address, "start", "qwen", "--to", "3", "--id", shadow_id)
    shown(address, "stop", "two")
    assert [each["shadow_id"] for each in shown(address, "list")["shadows"]] == ["one", "two"]
    lines = run(address, "list", "qwen").stdout.splitlines()
    assert lines[1].split()[:5] == ["one", "qwen", "others", "3", "10"]
    assert lines[1].endswith("runs")
    assert not lines[2].endswith("runs")
    assert shown(address, "list", "other")["shadows"] == []


def test_an_unknown_shadow_is_an_error(address: str) -> None:
    for command in ("stop", "report"):
        result = run(address, command, "absent")
        assert result.exit_code == 1
        assert "no such shadow" in result.output


def test_a_report_tells_differences_and_drops(address: str, shadows: FakeShadows) -> None:
    shown(address, "start", "qwen", "--to", "3", "--id", "mine")
    shadows.report = pb.GetShadowReportResponse(
        compared=200,
        equal=150,
        drops={pb.SHADOW_DROP_REASON_NO_ROOM: 7, 99: 1},
        mean_edit_distance=0.125,
        median_first_difference=12,
        differences=[
            pb.PairedDifference(
                metric="ttft_ms",
                primary_mean=20,
                shadow_mean=25.5,
                mean_difference=5.5,
                lower=4,
                upper=7,
            ),
            pb.PairedDifference(
                metric="completion_tokens", lower=float("-inf"), upper=float("inf")
            ),
        ],
        pairs=[pb.ShadowPair(request_id="r-1", equal=True), pb.ShadowPair(request_id="r-2")],
    )
    report = shown(address, "report", "mine", "--pairs", "2")
    assert report["drops"] == {"no_room": 7, "99": 1}
    assert report["differences"][1]["lower"] == "-Infinity"
    assert shadows.requests[-1].pairs == 2
    text = run(address, "report", "mine").stdout
    assert "200 compared, 150 equal (75.0 %)" in text
    assert "mean edit distance 12.5 %, first difference after 12 tokens" in text
    assert "8 dropped: 7 no room, 1 99" in text
    assert "+4.0 to +7.0" in text
    assert "needs 100 pairs" in text
    assert "r-2" in text


def test_an_empty_report_says_so(address: str) -> None:
    shown(address, "start", "qwen", "--to", "3", "--id", "mine")
    assert "nothing compared yet" in run(address, "report", "mine").stdout


def test_ids_and_names_are_completed(address: str) -> None:
    import typer

    from mlxmesh_cli.commands.completion import complete_shadow

    shown(address, "start", "qwen", "--to", "3", "--id", "mine")
    command = typer.main.get_command(app)
    context = typer.Context(command)
    context.params = {"address": address, "data_dir": None}
    assert complete_shadow(context, "mi") == ["mine"]

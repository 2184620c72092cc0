"""`mlxmesh rollout`: what each command asks for, and what it prints."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from mlxmesh.model.v1 import rollout_pb2 as pb
from mlxmesh.model.v1.rollout_pb2_grpc import (
    RolloutServiceServicer,
    add_RolloutServiceServicer_to_server,
)
from mlxmesh_shared.errors import RolloutNotFound
from tests.command_line import mlxmesh
from tests.fakes.public_services import FakeGeneration, FakeModels
from tests.fakes.scripted_generation import serving_on_a_thread


class ScriptedRollouts(RolloutServiceServicer):
    """One rollout, which each GetRollout moves on by one change."""

    def __init__(self, *states: pb.RolloutState.ValueType) -> None:
        self.calls: list[Any] = []
        self._states = list(states)
        self._rollout = pb.Rollout(
            rollout_id="r-1", model="chat", alias="default", from_version=2, to_version=3,
            steps=[1, 100], min_requests=20, state=pb.ROLLOUT_STATE_PREPARING,
        )  # fmt: skip
        guard = pb.Guard(metric=pb.GUARD_METRIC_TTFT_P95, bound=1.2, relative=True)
        reading = pb.GuardReading(guard=guard, value=130, baseline=100)
        self._rollout.readings.append(reading)
        self._change(pb.ROLLOUT_STATE_PREPARING, "started", "user:ada")

    def _change(self, state: pb.RolloutState.ValueType, reason: str, principal: str = "") -> None:
        self._rollout.state = state
        change = pb.RolloutChange(state=state, reason=reason, principal=principal)
        self._rollout.history.append(change)
        if state > pb.ROLLOUT_STATE_PAUSED:
            self._rollout.end_time.GetCurrentTime()

    async def StartRollout(self, request: Any, context: Any) -> pb.StartRolloutResponse:
        self.calls.append(request)
        return pb.StartRolloutResponse(rollout=self._rollout)

    async def GetRollout(self, request: Any, context: Any) -> pb.GetRolloutResponse:
        if request.rollout_id != "r-1":
            raise RolloutNotFound(f"there is no rollout {request.rollout_id}", field="rollout_id")
        if self._states:
            self._change(self._states.pop(0), "because")
        return pb.GetRolloutResponse(rollout=self._rollout)

    async def WatchRollout(
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.WatchRolloutResponse]:
        yield pb.WatchRolloutResponse(rollout=self._rollout)

    async def ListRollouts(self, request: Any, context: Any) -> pb.ListRolloutsResponse:
        self.calls.append(request)
        return pb.ListRolloutsResponse(rollouts=[] if request.name else [self._rollout])

    async def PauseRollout(self, request: Any, context: Any) -> pb.PauseRolloutResponse:
        self.calls.append(request)
        return pb.PauseRolloutResponse(rollout=self._rollout)

    async def ResumeRollout(self, request: Any, context: Any) -> pb.ResumeRolloutResponse:
        self.calls.append(request)
        return pb.ResumeRolloutResponse(rollout=self._rollout)

    async def AbortRollout(self, request: Any, context: Any) -> pb.AbortRolloutResponse:
        self.calls.append(request)
        return pb.AbortRolloutResponse(rollout=self._rollout)

    async def PromoteRollout(self, request: Any, context: Any) -> pb.PromoteRolloutResponse:
        self.calls.append(request)
        return pb.PromoteRolloutResponse(rollout=self._rollout)


@pytest.fixture
def rollouts() -> ScriptedRollouts:
    return ScriptedRollouts(pb.ROLLOUT_STATE_PROGRESSING, pb.ROLLOUT_STATE_PROMOTED)


@pytest.fixture
def address(
    rollouts: ScriptedRollouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path / "no mesh"))
    for name in ("MLXMESH_API_KEY", "MLXMESH_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    more = (add_RolloutServiceServicer_to_server, rollouts)
    with serving_on_a_thread(FakeGeneration(), FakeModels(), more) as address:
        yield address


def run(address: str, *arguments: str) -> Result:
    return mlxmesh("rollout", *arguments, "--address", address)


def test_start_asks_for_what_its_options_say(address: str, rollouts: ScriptedRollouts) -> None:
    result = run(
        address, "start", "chat", "--to", "3", "--alias", "stable", "--steps", "5, 50%,100",
        "--hold", "2h", "--guard", "error_rate<1%", "--guard", "ttft_p95<1.2x",
        "--min-requests", "7", "--id", "r-1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "rollout r-1 is started" in result.output
    [request] = rollouts.calls
    assert request == pb.StartRolloutRequest(
        name="chat",
        to_version=3,
        alias="stable",
        steps=[5, 50, 100],
        hold_s=7200,
        guards=[
            pb.Guard(metric=pb.GUARD_METRIC_ERROR_RATE, bound=0.01),
            pb.Guard(metric=pb.GUARD_METRIC_TTFT_P95, bound=1.2, relative=True),
        ],
        min_requests=7,
        rollout_id="r-1",
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--steps", "10,5"], "must grow, as in 1,10,50,100"),
        (["--steps", "0,5"], "must be percentages that grow"),
        (["--hold", "soon"], "must be a time such as 90s, 15m, 2h or 1d"),
        (["--guard", "latency<1"], "latency is no metric; there are error_rate"),
    ],
)
def test_a_wrong_option_is_explained_before_anything_is_called(
    address: str, rollouts: ScriptedRollouts, arguments: list[str], why: str
) -> None:
    result = run(address, "start", "chat", "--to", "3", *arguments)
    assert result.exit_code == 2
    assert why in " ".join(result.output.split())
    assert rollouts.calls == []


@pytest.mark.parametrize("reference", ["chat:stable", "chat@3"])
def test_a_reference_is_no_name(address: str, rollouts: ScriptedRollouts, reference: str) -> None:
    result = run(address, "start", reference, "--to", "3")
    assert result.exit_code == 2
    assert "give chat, and the version" in " ".join(result.output.split())
    assert rollouts.calls == []


def test_watch_prints_each_change_and_tells_a_promotion(address: str) -> None:
    result = run(address, "show", "r-1", "--watch")
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.output.splitlines()] == [
        "preparing",
        "progressing",
        "promoted",
    ]


def test_show_prints_readings_and_history(address: str) -> None:
    output = run(address, "show", "r-1").output
    assert "ttft_p95<1.2x" in output
    assert "130ms" in output
    assert "started (by user:ada)" in output


def test_an_unknown_rollout_is_one_line(address: str) -> None:
    result = run(address, "show", "r-9")
    assert result.exit_code == 1
    assert "there is no rollout r-9" in result.output


def test_the_list(address: str) -> None:
    assert "chat:default" in run(address, "list").output
    assert "no rollouts of chat; start one with" in run(address, "list", "chat").output
    [listed] = json.loads(run(address, "list", "--json").output)["rollouts"]
    assert listed["rollout_id"] == "r-1"


@pytest.mark.parametrize("action", ["pause", "resume", "abort", "promote"])
def test_the_other_commands_name_the_rollout(
    address: str, rollouts: ScriptedRollouts, action: str
) -> None:
    result = run(address, action, "r-1")
    assert result.exit_code == 0, result.output
    [request] = rollouts.calls
    assert type(request).__name__ == f"{action.title()}RolloutRequest"
    assert request.rollout_id == "r-1"

"""Every table at every width: one line a row, and no id, address or number broken or cut."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh.telemetry.v1 import telemetry_pb2 as t
from mlxmesh_cli.screen.access_tables import (
    audit_table,
    keys_table,
    quotas_table,
    usage_table,
    users_table,
)
from mlxmesh_cli.screen.output import print_view
from mlxmesh_cli.screen.tables import models_table, overview_view
from mlxmesh_cli.screen.timeline import timeline
from mlxmesh_cli.screen.top_view import Screen, frame
from tests.unit.cli.test_timeline import TRACE
from tests.unit.cli.test_top_view import ENGINE, GENERATION, NOW, TRAFFIC, event

WIDTHS = [40, 60, 80, 120, 200]

MODEL = m.Model(
    name="Qwen3-0.6B-4bit",
    aliases={"stable": 12},
    versions=[
        m.ModelVersion(
            version=12,
            state=m.VERSION_STATE_FAILED,
            failure=Failure(message="the model does not fit: 12,345 MB of 11,000 MB"),
            source="/var/lib/mlxmesh/models/Qwen3-0.6B-4bit/12",
            parameters=596_049_920,
            weights_bytes=335_000_000,
            dtype="bfloat16",
            context_tokens=40960,
            desired_replicas=2,
        )
    ],
)
ROW: dict[str, Any] = {
    "service": "generation",
    "instance_id": "generation-e8ee1621",
    "address": "192.168.100.200:43859",
    "pid": 4194304,
    "state": "not_serving",
    "outstanding": 1024,
    "breaker": {"state": "half_open", "failures": 12, "retry_in_ms": 1250},
    "model": "Qwen3-0.6B-4bit",
}


def lines(view: RenderableType, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(view, crop=False)
    return capture.get().splitlines()


def words(view: RenderableType) -> set[str]:
    """All words of a view that has room for all."""
    return {word for line in lines(view, 1000) for word in line.split()}


SCREEN = Screen(
    "127.0.0.1:50051",
    NOW,
    status=t.GetMeshStatusResponse(instances=[GENERATION, ENGINE], traffic=[TRAFFIC]),
    events=[event(number) for number in range(3)],
)
USER: dict[str, Any] = {
    "name": "nightly-build@ci.example",
    "kind": "service_account",
    "state": "active",
    "role": "member",
    "team": "research",
    "created": "2026-11-29T10:00:00Z",
}
KEY: dict[str, Any] = {
    "key_id": "k_1a2b3c4d5e6f",
    "name": "the nightly build on the second machine in the cellar",
    "prefix": "mlx_1a2b3c",
    "user": "ci",
    "role": "member",
    "models": ["qwen*", "pocket"],
    "created": "2026-11-29T10:00:00Z",
    "expires": "2027-11-29T10:00:00Z",
}
QUOTA: dict[str, Any] = {
    "subject": {"user": "ada"},
    "limits": {"tokens_per_day": "1000000000", "requests_per_minute": "60"},
    "used": {"tokens_this_day": "123456789", "requests_this_minute": "7"},
}
USAGE: dict[str, Any] = {
    "key_id": "k_1a2b3c4d5e6f",
    "user": "ada",
    "model": "Qwen3-0.6B-4bit",
    "model_version": 12,
    "time": "2026-11-29T00:00:00Z",
    "amounts": {"requests": "1234567", "prompt_tokens": "123456789012", "device_s": 12345.67},
}
ENTRY: dict[str, Any] = {
    "time": "2026-11-29T10:00:00.123Z",
    "actor": "spiffe://mlxmesh/admin",
    "action": "user.updated",
    "target": "user:ada",
    "details": "role member -> admin, team research -> operations",
}
VIEWS: dict[str, RenderableType] = {
    "status": overview_view({"instances": [ROW, ROW], "models": []}),
    "models": models_table([MODEL]),
    "trace": timeline(TRACE),
    "top": frame(SCREEN),
    "users": users_table([USER] * 2),
    "keys": keys_table([KEY] * 2),
    "quotas": quotas_table([QUOTA] * 2),
    "usage": usage_table([USAGE] * 2, ["user", "day"]),
    "audit": audit_table([ENTRY] * 2),
}
# Text that runs over several lines where it must.
RUNNING_LINES = {"trace": 1, "top": 1}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", VIEWS)
def test_no_value_is_cut_and_no_line_too_wide(name: str, width: int) -> None:
    shown = lines(VIEWS[name], width)
    assert all(cell_len(line) <= width for line in shown)
    whole = words(VIEWS[name])
    cut = {word for line in shown for word in line.split()} - whole - {"…"}
    # Names of spans are neither ids nor numbers.
    assert name == "trace" or not cut
    assert all(word.endswith("…") and not word[0].isdigit() for word in cut)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", VIEWS)
def test_each_row_is_one_line(name: str, width: int) -> None:
    wide = len(lines(VIEWS[name], 1000))
    assert len(lines(VIEWS[name], width)) - wide <= RUNNING_LINES.get(name, 0)


@pytest.mark.parametrize("name", VIEWS)
def test_with_room_nothing_is_left_out(name: str) -> None:
    assert "…" not in "".join(lines(VIEWS[name], 1000))


@pytest.mark.parametrize("columns", ["", "40"])
def test_a_piped_command_has_all_the_room(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)  # shells and CI systems export it
    print_view(overview_view({"instances": [ROW] * 30, "models": []}))
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 33
    assert all("half_open (12 failed, retries in 1.2 s)" in line for line in shown[1:31])

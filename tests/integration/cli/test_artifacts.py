"""`mlxmesh artifacts`: listing, verifying and pruning, in words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from mlxmesh.model.v1 import artifact_pb2 as pb
from mlxmesh.model.v1.artifact_pb2_grpc import add_ArtifactServiceServicer_to_server
from tests.command_line import mlxmesh
from tests.fakes.artifact_service import FakeArtifacts
from tests.fakes.public_services import FakeGeneration, FakeModels
from tests.fakes.scripted_generation import serving_on_a_thread


@pytest.fixture
def store() -> FakeArtifacts:
    fake = FakeArtifacts()
    for number in (1, 2, 3):
        fake.artifacts.append(
            pb.Artifact(
                model="qwen",
                version=number,
                state=pb.ARTIFACT_STATE_STORED,
                bytes=2_000_000,
                shared_bytes=1_500_000,
                directory=f"/models/qwen/{number}",
            )
        )
    return fake


@pytest.fixture
def address(store: FakeArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path / "no mesh"))
    for name in ("MLXMESH_API_KEY", "MLXMESH_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    own = (add_ArtifactServiceServicer_to_server, store)
    with serving_on_a_thread(FakeGeneration(), FakeModels(), own) as address:
        yield address


def run(address: str, *arguments: str) -> Result:
    return mlxmesh("artifacts", *arguments, "--address", address)


def shown(address: str, *arguments: str) -> Any:
    return json.loads(run(address, *arguments, "--json").stdout)


def test_every_page_is_listed(address: str, store: FakeArtifacts) -> None:
    listed = shown(address, "list")
    assert [artifact["version"] for artifact in listed["artifacts"]] == [1, 2, 3]
    assert int(listed["stored_bytes"]) == 3_000_000
    text = run(address, "list").stdout
    assert "qwen@3" in text
    assert "stored 3.0 MB, free on the disk 5.0 MB" in text
    assert "prune" not in text
    store.prunable_bytes = 1_000_000
    assert "1.0 MB belong to no version; `mlxmesh artifacts prune`" in run(address, "list").stdout


def test_whole_files_end_with_0_and_damaged_ones_with_1(address: str, store: FakeArtifacts) -> None:
    whole = run(address, "verify", "qwen")
    assert (whole.exit_code, whole.stdout.splitlines()[0]) == (0, "qwen@1 is whole (2.0 MB)")
    store.artifacts[1].state = pb.ARTIFACT_STATE_DAMAGED
    store.artifacts[1].damaged_files.append("config.json")
    damaged = run(address, "verify")
    assert damaged.exit_code == 1
    assert "qwen@2 is damaged: config.json; pull or import it again" in damaged.stdout
    assert shown(address, "verify")["artifacts"][1]["damaged_files"] == ["config.json"]
    assert "config.json" in run(address, "list").stdout


def test_pruning(address: str, store: FakeArtifacts) -> None:
    store.prunable_bytes = 4_000_000
    dry = run(address, "prune", "--dry-run").stdout
    assert dry == "1 file would be removed, 4.0 MB\n"
    assert store.calls[-1].dry_run
    assert store.calls[-1].unfinished_after_s == 604_800
    assert shown(address, "prune", "--unfinished-after", "0")["files"] == 1
    assert store.calls[-1].HasField("unfinished_after_s")
    assert run(address, "prune", "--unfinished-after", "-1").exit_code == 2

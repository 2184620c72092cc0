"""Jobs, batches, files and queues by the command, on a mesh that had none before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.running_mesh import MLXMESH, RunningMesh, start_mesh, stop_mesh


@pytest.fixture(scope="module")
def own_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    mesh = start_mesh(tmp_path_factory.mktemp("jobs"))
    yield mesh
    stop_mesh(mesh)


def ok(mesh: RunningMesh, *arguments: str) -> str:
    result = mesh.command(*arguments)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


def asked(mesh: RunningMesh, *arguments: str) -> Any:
    return json.loads(ok(mesh, *arguments, "--json"))


def lines_of_batch(count: int, *, max_tokens: int = 6) -> str:
    lines = [
        {
            "custom_id": f"request {number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "pocket",
                "messages": [{"role": "user", "content": f"Count to {number}."}],
                "max_tokens": max_tokens,
            },
        }
        for number in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def services(mesh: RunningMesh) -> set[str]:
    return {row["service"] for row in mesh.status()["instances"]}


def test_the_first_job_starts_the_service_and_ends(own_mesh: RunningMesh) -> None:
    assert "jobs" not in services(own_mesh)
    reads = own_mesh.command("jobs", "list")
    assert reads.returncode == 1
    assert "`mlxmesh jobs start`" in reads.stderr
    assert not (own_mesh.data_dir / "jobs.db").exists()

    job = asked(own_mesh, "jobs", "submit", "Hello", "--max-tokens", "12", "--id", "one", "--wait")
    assert (job["job_id"], job["state"], job["attempt"]) == ("one", "completed", "1")
    assert {"jobs", "worker"} <= services(own_mesh)
    assert ok(own_mesh, "jobs", "output", "one").strip() == job["generation"]["text"].strip()

    again = asked(own_mesh, "jobs", "submit", "Hello", "--max-tokens", "12", "--id", "one")
    assert again["state"] == "completed"
    other = own_mesh.command("jobs", "submit", "Another prompt", "--id", "one")
    assert other.returncode == 1
    assert "one" in other.stderr

    watched = ok(own_mesh, "jobs", "watch", "one")
    assert job["generation"]["text"].strip() in watched
    assert [each["job_id"] for each in asked(own_mesh, "jobs", "list")] == ["one"]
    assert "completed" in ok(own_mesh, "jobs", "show", "one")
    assert asked(own_mesh, "jobs", "list", "--state", "failed") == []


def test_a_job_that_cannot_succeed_fails_with_its_reason(own_mesh: RunningMesh) -> None:
    failed = own_mesh.command("jobs", "submit", "Hi", "-m", "nothing", "--id", "no-model", "--wait")
    assert failed.returncode == 1
    job = asked(own_mesh, "jobs", "show", "no-model")
    assert (job["state"], job["failure"]["reason"]) == ("failed", "MODEL_NOT_FOUND")
    assert len(job["attempts"]) == 1
    assert "mlxmesh jobs retry no-model" in ok(own_mesh, "jobs", "show", "no-model")
    assert asked(own_mesh, "jobs", "retry", "no-model")["state"] in ("waiting", "running")


def test_files_come_back_as_they_were(own_mesh: RunningMesh, tmp_path: Path) -> None:
    given = tmp_path / "photo.bin"
    given.write_bytes(os.urandom(1_300_000))
    file_id = ok(own_mesh, "files", "put", str(given)).strip()
    ok(own_mesh, "files", "get", file_id, "-o", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == given.read_bytes()
    (row,) = [each for each in asked(own_mesh, "files", "list") if each["file_id"] == file_id]
    assert (row["name"], row["size_bytes"], row["complete"]) == ("photo.bin", "1300000", True)
    ok(own_mesh, "files", "delete", file_id)
    missing = own_mesh.command("files", "get", file_id, "-o", str(tmp_path / "gone"))
    assert missing.returncode == 1
    assert not (tmp_path / "gone").exists()


def interrupted(mesh: RunningMesh, arguments: Sequence[str], output: Path) -> None:
    """Runs a batch, and interrupts the command once it has written some results."""
    command = [*MLXMESH, *arguments, "--data-dir", str(mesh.data_dir)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    until_s = time.monotonic() + 90
    while not (output.exists() and output.read_text().count("\n") >= 3):
        assert process.poll() is None
        assert time.monotonic() < until_s
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.wait(30)


def test_a_batch_goes_on_where_it_was_interrupted(own_mesh: RunningMesh, tmp_path: Path) -> None:
    requests, results = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    requests.write_text(lines_of_batch(24))
    arguments = ("batch", "run", str(requests), "-o", str(results), "--max-running", "4")
    interrupted(own_mesh, arguments, results)
    with results.open("a") as half:
        half.write('{"id": "cut sho')  # what a killed command may leave
    worker = own_mesh.pid("worker")
    psutil.Process(worker).kill()

    summary = asked(own_mesh, *arguments)
    assert summary["state"] == "completed"
    assert summary["batch"]["completed"] == "24"
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == [f"request {number}" for number in range(24)]
    assert {row["response"]["status_code"] for row in rows} == {200}
    assert all(row["response"]["body"]["choices"][0]["message"] for row in rows)

    fetched = tmp_path / "file.jsonl"
    ok(own_mesh, "jobs", "output", summary["job_id"], "-o", str(fetched))
    assert [json.loads(line)["custom_id"] for line in fetched.read_text().splitlines()] == [
        row["custom_id"] for row in rows
    ]


def test_a_batch_that_is_wrong_says_where(own_mesh: RunningMesh, tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text(lines_of_batch(1) + "{not json\n" + lines_of_batch(1))
    failed = own_mesh.command("batch", "run", str(requests), "-o", str(tmp_path / "results"))
    assert failed.returncode == 1
    assert "line 2" in failed.stderr
    assert "line 3" in failed.stderr  # its custom_id is that of line 1


def test_a_request_that_is_wrong_fails_alone(own_mesh: RunningMesh, tmp_path: Path) -> None:
    bad = json.loads(lines_of_batch(1)) | {"custom_id": "bad"}
    bad["body"]["max_tokens"] = -1
    requests, results = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    requests.write_text(json.dumps(bad) + "\n" + lines_of_batch(2))
    mixed = own_mesh.command("batch", "run", str(requests), "-o", str(results))
    assert mixed.returncode == 1, results.read_text() + mixed.stdout
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == ["bad", "request 0", "request 1"]
    assert rows[0]["response"]["status_code"] == 400
    assert "max_tokens" in json.dumps(rows[0]["response"]["body"])


def test_a_connector_that_no_worker_has_is_refused(own_mesh: RunningMesh) -> None:
    assert asked(own_mesh, "queues", "workers")[0]["slots"] > 0
    unknown = own_mesh.command("jobs", "submit", "--connector", "nothing_http")
    assert unknown.returncode == 1
    assert "simulation_http" in unknown.stderr  # the connectors that exist

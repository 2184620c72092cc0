"""The commands about jobs and queues, against a real jobs service on a thread.

Files and batches need a gateway, which says who calls: tests/e2e/test_jobs_command.py.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from mlxmesh_jobs.assembly import SERVICE_NAMES, Surroundings, open_jobs
from mlxmesh_shared.events import discard_event
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import JobsSettings
from tests.command_line import mlxmesh
from tests.fakes.registry import InMemoryRegistry


@contextmanager
def jobs_service(directory: Path) -> Iterator[str]:
    """The address of a service without workers."""
    address, loop = list[str](), asyncio.new_event_loop()
    stop, ready = asyncio.Event(), threading.Event()

    async def serve() -> None:
        around = Surroundings(
            instance_id="jobs-1",
            publish=discard_event,
            open_channel=open_channel,
        )
        async with AsyncExitStack() as stack:
            jobs = await open_jobs(stack, JobsSettings(data_dir=directory), around)
            server = MeshServer(services=jobs.services(), service_names=SERVICE_NAMES)
            address.append(await server.start())
            await stack.enter_async_context(jobs.running(InMemoryRegistry()))
            stack.push_async_callback(server.drain, 0, 0)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


class Shell:
    """Runs commands against the service."""

    def __init__(self, address: str) -> None:
        self._address = address

    def run(self, *arguments: str) -> Result:
        return mlxmesh(*arguments, "--address", self._address)

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def refused(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code in (1, 2), result.output
        return " ".join(result.output.split())


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path / "no mesh"))
    for name in ("MLXMESH_API_KEY", "MLXMESH_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with jobs_service(tmp_path) as address:
        yield Shell(address)


def submit(shell: Shell, job_id: str, *options: str) -> Any:
    return shell.json("jobs", "submit", "Hi", "-m", "chat", "--id", job_id, *options)


def test_lists_say_that_there_is_nothing(shell: Shell) -> None:
    assert "no jobs" in shell.ok("jobs", "list")
    assert "no files" in shell.ok("files", "list")
    assert shell.json("jobs", "list") == []


def test_a_job_waits_is_cancelled_and_runs_again(shell: Shell) -> None:
    assert submit(shell, "one", "--label", "run=7")["state"] == "waiting"
    assert submit(shell, "one", "--label", "run=7")["state"] == "waiting"  # repeated
    assert "one" in shell.refused("jobs", "submit", "Other", "-m", "chat", "--id", "one")
    assert "cannot run again" in shell.refused("jobs", "retry", "one")
    assert shell.json("jobs", "cancel", "one")["state"] == "cancelled"
    assert shell.json("jobs", "retry", "one")["state"] == "waiting"
    assert [job["job_id"] for job in shell.json("jobs", "list", "--label", "run=7")] == ["one"]
    assert shell.json("jobs", "list", "--label", "run=8") == []
    assert "waiting" in shell.ok("jobs", "show", "one")
    assert "has made nothing yet" in shell.refused("jobs", "output", "one")


def test_an_unknown_job_is_named(shell: Shell) -> None:
    for command in ("show", "watch", "output", "cancel", "retry"):
        assert "no job nothing" in shell.refused("jobs", command, "nothing")


def test_a_job_starts_later_and_ends_by_its_deadline(shell: Shell) -> None:
    later = submit(shell, "later", "--not-before", "30s")
    assert (later["state"], later["attempt"]) == ("delayed", "0")
    assert "next attempt begins" in shell.ok("jobs", "show", "later")
    submit(shell, "late", "--deadline", "1s")
    watched = shell.run("jobs", "watch", "late")
    assert watched.exit_code == 1
    assert "failed" in watched.stdout
    assert shell.json("jobs", "show", "late")["failure"]["reason"] == "DEADLINE_EXCEEDED"


def test_a_queue_keeps_the_limits_that_are_not_given(shell: Shell) -> None:
    (queue,) = shell.json("queues", "set", "nightly", "--pause", "--max-running", "2")
    assert queue["settings"]["paused"]
    submit(shell, "night", "--queue", "nightly")
    assert "the queue is paused" in shell.ok("queues", "list")
    (queue,) = shell.json("queues", "set", "nightly", "--resume", "--max-waiting-each", "1")
    assert (queue["settings"]["paused"], queue["settings"]["max_running"]) == (False, 2)
    full = shell.refused("jobs", "submit", "Hi", "-m", "chat", "--queue", "nightly", "--id", "more")
    assert "nightly" in full
    assert "name" in shell.refused("queues", "set", "Not a name", "--pause")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("jobs", "submit"), "name one of"),
        (("jobs", "submit", "Hi", "--connector", "a1111_http"), "name one of"),
        (("jobs", "submit", "--connector", "x_http", "--arguments", "[1]"), "a JSON object"),
        (("jobs", "submit", "Hi", "-m", "chat", "--label", "nothing"), "KEY=VALUE"),
        (("jobs", "submit", "Hi", "-m", "chat", "--not-before", "soon"), "duration or a time"),
        (("jobs", "list", "--state", "asleep"), "asleep"),
        (("jobs", "list", "--kind", "dream"), "dream"),
        (("batch", "run", "/nowhere.jsonl", "-o", "/nowhere.out"), "cannot read"),
    ],
)
def test_a_wrong_option_is_named(shell: Shell, arguments: tuple[str, ...], told: str) -> None:
    assert told in shell.refused(*arguments)

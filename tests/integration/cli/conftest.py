"""The commands against a fake access service, which serves on a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.command_line import mlxmesh
from tests.fakes.access_service import FakeAccess, running_access

PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Shell:
    """Runs commands against one gateway."""

    fake: FakeAccess
    address: str
    directory: Path

    def run(self, *arguments: str, stdin: str = "", **env: str) -> Result:
        """Runs a command; errors of the command are in the result."""
        return mlxmesh(*arguments, "--address", self.address, stdin=stdin, env=env)

    def ok(self, *arguments: str, stdin: str = "") -> str:
        """What a command that succeeds prints."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str, stdin: str = "") -> Any:
        """The JSON document that a command prints."""
        return json.loads(self.ok(*arguments, "--json", stdin=stdin))

    @property
    def credentials(self) -> Path:
        """The file with what the commands have stored."""
        return self.directory / "mlxmesh" / "credentials.json"


@contextmanager
def serving(fake: FakeAccess) -> Iterator[str]:
    """The address of the fake's server, which runs on a thread."""
    address, loop = list[str](), asyncio.new_event_loop()
    stop, ready = asyncio.Event(), threading.Event()

    async def serve() -> None:
        async with running_access(fake) as served:
            address.append(served)
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


@pytest.fixture
def fake() -> FakeAccess:
    """The state of the fake."""
    return FakeAccess()


@pytest.fixture
def shell(fake: FakeAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A command line that stores its credentials in a directory of the test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path / "no mesh"))
    for name in ("MLXMESH_API_KEY", "MLXMESH_INSECURE_KEY", "MLXMESH_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with serving(fake) as address:
        yield Shell(fake, address, tmp_path)


@pytest.fixture
def admin(shell: Shell) -> Shell:
    """The same, once it has created the first user, ada."""
    shell.ok("users", "create", "ada", "--admin", "--password-file", "-", stdin=PASSWORD)
    return shell

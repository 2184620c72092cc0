"""A gateway with the real access service: shares of keys, and service that is killed or locked."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlxmesh.access.v1 import access_pb2 as a
from mlxmesh.access.v1.access_pb2_grpc import AccessServiceStub
from mlxmesh.generation.v1.generation_pb2 import CompleteRequest, GenerateRequest
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

SIMULATED = {
    "MLXMESH_ENGINE_BACKEND": "simulated",
    "MLXMESH_ENGINE_SIMULATED_STEP_MS": "10",
    "MLXMESH_ENGINE_MAX_RUNNING": "4",
}
PASSWORD = "correct horse battery"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


def bearer(secret: str, claimed: str = "") -> tuple[tuple[str, str], ...]:
    named = (("mlxmesh-caller", claimed),) if claimed else ()
    return (("authorization", f"Bearer {secret}"), *named)


def start_access(data_dir: Path) -> subprocess.Popen[bytes]:
    log = (data_dir / "logs" / "access-test.log").open("ab")
    with log:
        command = [sys.executable, "-m", "mlxmesh_access", "--data-dir", str(data_dir)]
        return subprocess.Popen(command, stdout=log, stderr=log)


@dataclass
class Users:
    mesh: RunningMesh
    access: subprocess.Popen[bytes]
    admin: str = ""
    """Ada's access token."""

    @property
    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.mesh.address)

    async def key(self, channel: grpc.aio.Channel, name: str) -> str:
        """A new key of a new user."""
        stub = AccessServiceStub(channel)
        user = a.CreateUserRequest(name=name, password=PASSWORD)
        await stub.CreateUser(user, metadata=bearer(self.admin))
        key = a.CreateKeyRequest(name="test", user=name)
        return (await stub.CreateKey(key, metadata=bearer(self.admin))).secret

    async def requests_of(self, channel: grpc.aio.Channel, name: str) -> int:
        stub = AccessServiceStub(channel)
        usage = await stub.QueryUsage(a.QueryUsageRequest(user=name), metadata=bearer(self.admin))
        return sum(row.amounts.requests for row in usage.rows)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Users]:
    data_dir = tmp_path_factory.mktemp("mesh")
    mesh = start_mesh(data_dir, env=SIMULATED)
    found = Users(mesh, start_access(data_dir))
    try:
        asyncio.run(sign_in(found))
        yield found
    finally:
        found.access.send_signal(signal.SIGTERM)
        found.access.wait(30)
        stop_mesh(mesh)


async def sign_in(users: Users) -> None:
    """Creates the first user, for which nobody needs credentials, and its session."""
    async with users.channel as channel:
        stub = AccessServiceStub(channel)
        ada = a.CreateUserRequest(name="ada", password=PASSWORD, role=a.ACCESS_ROLE_ADMIN)
        # Once the gateway knows this one: else it has the launcher start another.
        await until_available(lambda: stub.GetSignInOptions(a.GetSignInOptionsRequest()))
        await stub.CreateUser(ada)
        answer = await stub.SignIn(a.SignInRequest(name="ada", password=PASSWORD))
        users.admin = answer.tokens.access_token


async def until_available(call: Any, timeout_s: float = 60) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() is not UNAVAILABLE or time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.2)


def complete(channel: grpc.aio.Channel, metadata: Any, max_tokens: int = 5) -> Any:
    request = GenerateRequest(model="pocket", prompt="a", max_tokens=max_tokens)
    stub = GenerationServiceStub(channel)
    return stub.Complete(CompleteRequest(generation=request), metadata=metadata)


async def code_of(call: Any) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_equal_keys_get_equal_shares_whatever_they_claim(users: Users) -> None:
    """Ann claims a new name for each call and asks three times as often as Ben."""
    async with users.channel as channel:
        keys = {name: await users.key(channel, name) for name in ("ann", "ben")}
        done: Counter[str] = Counter()
        ended = asyncio.Event()

        async def work(name: str) -> None:
            number = 0
            while not ended.is_set():
                number += 1
                claimed = f"{id(asyncio.current_task())}-{number}" if name == "ann" else ""
                await complete(channel, bearer(keys[name], claimed), 10)
                done[name] += 1

        async with asyncio.TaskGroup() as tasks:
            for name in ["ann"] * 24 + ["ben"] * 8:
                tasks.create_task(work(name))
            await asyncio.sleep(2)
            done.clear()
            async with asyncio.timeout(60):
                while sum(done.values()) < 200:
                    await asyncio.sleep(0.1)
            ended.set()
            shares = dict(done)
    assert abs(shares["ann"] - shares["ben"]) <= 0.1 * sum(shares.values()), shares


async def test_known_keys_go_on_while_access_is_dead_or_locked(users: Users) -> None:
    async with users.channel as channel:
        key = await users.key(channel, "cal")
        await complete(channel, bearer(key))
        calls = 1

        users.access.kill()
        users.access.wait()
        for _ in range(5):
            await complete(channel, bearer(key))
            calls += 1
        assert await code_of(complete(channel, bearer("mm_unknown"))) is UNAVAILABLE
        assert await code_of(complete(channel, ())) is UNAUTHENTICATED
        await asyncio.sleep(3)  # the gateway has tried to report

        users.access = start_access(users.mesh.data_dir)
        await until_available(lambda: users.requests_of(channel, "cal"))
        database = users.mesh.data_dir / "access.db"
        with closing(sqlite3.connect(database, isolation_level=None)) as locked:
            locked.execute("BEGIN EXCLUSIVE")
            for _ in range(5):
                await complete(channel, bearer(key))
                calls += 1
            await asyncio.sleep(5)
            locked.execute("ROLLBACK")

        await until_available(lambda: users.requests_of(channel, "cal"))
        async with asyncio.timeout(60):
            while await users.requests_of(channel, "cal") < calls:
                await asyncio.sleep(0.5)
        await asyncio.sleep(3)
        assert await users.requests_of(channel, "cal") == calls
        assert await code_of(complete(channel, bearer("mm_unknown"))) is UNAUTHENTICATED

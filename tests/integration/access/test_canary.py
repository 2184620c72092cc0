"""No secret is in the database, in logs, or in errors: neither of calls that work nor of others."""

from __future__ import annotations

import io
import logging
from collections.abc import Generator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.sql.urls import SqliteFile
from mlxmesh_shared.telemetry import setup_logging
from tests.integration.access.conftest import Service, Services

PASSWORD = "canary-password-one"
NEW_PASSWORD = "canary-password-two"
WRONG_PASSWORD = "canary-password-bad"
SERVICE_ACCOUNT = pb.USER_KIND_SERVICE_ACCOUNT


@pytest.fixture
def log() -> Generator[io.StringIO]:
    """What a process logs that is told to log everything."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log = io.StringIO()
    setup_logging(service="access", instance_id="access-1", level="debug", json=True, stream=log)
    yield log
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_secrets_are_nowhere(log: io.StringIO, tmp_path: Path) -> None:
    errors: list[MeshError] = []
    secrets = [PASSWORD, NEW_PASSWORD, WRONG_PASSWORD]
    # Records of calls are written after their responses, the last ones when the service ends.
    async with AsyncExitStack() as stack:
        service, _ = await Services(stack, SqliteFile(tmp_path / "access.db"), tmp_path).start()
        secrets += await use_every_secret(service, errors)
    assert len(errors) == 8
    said = "\n".join(f"{error.message} {error.field}" for error in errors)
    logged = log.getvalue()
    methods = ["CreateUser", "CreateKey", "SignIn", "RefreshSession", "UpdateUser", "RevokeKey"]
    # The log would have shown a secret.
    assert [method for method in methods if f"AccessService/{method}" not in logged] == []
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"canary-name" in stored
    for secret in secrets:
        assert secret not in said
        assert secret not in logged
        assert secret.encode() not in stored
        # The part of a key that is not displayed.
        assert max(secret.split("_"), key=len).encode() not in stored


async def use_every_secret(service: Service, errors: list[MeshError]) -> list[str]:
    """Calls that work and calls that fail with each secret; returns the keys, and the tokens."""
    admin = service.admin
    await admin.CreateUser(name="root", password=PASSWORD, role=pb.ACCESS_ROLE_ADMIN)
    await admin.CreateUser(name="canary-name", password=PASSWORD)
    user = service.user("canary-name")
    created = await user.CreateKey(name="k")
    tokens = (await service.nobody.SignIn(name="canary-name", password=PASSWORD)).tokens
    renewed = (await service.nobody.RefreshSession(refresh_token=tokens.refresh_token)).tokens
    await failing(errors, service.nobody.RefreshSession(refresh_token=tokens.refresh_token))
    await user.UpdateUser(name="canary-name", password=NEW_PASSWORD, old_password=PASSWORD)
    wrong = {"password": NEW_PASSWORD, "old_password": WRONG_PASSWORD}
    await failing(errors, user.UpdateUser(name="canary-name", **wrong))
    await failing(errors, service.nobody.SignIn(name="canary-name", password=WRONG_PASSWORD))
    await failing(errors, service.nobody.SignUp(name="x", password=PASSWORD))
    await failing(errors, admin.CreateUser(name="root", password=PASSWORD))
    account = {"name": "ci", "kind": SERVICE_ACCOUNT, "password": PASSWORD}
    await failing(errors, admin.CreateUser(**account))
    # In the wrong field.
    await failing(errors, admin.RevokeKey(key_id=created.secret))
    await failing(errors, service.nobody.RefreshSession(refresh_token=created.secret))
    sessions = [tokens, renewed]
    return [
        created.secret,
        *(one.access_token for one in sessions),
        *(one.refresh_token for one in sessions),
    ]


async def failing(errors: list[MeshError], call: Any) -> None:
    with pytest.raises(MeshError) as caught:
        await call
    errors.append(caught.value)

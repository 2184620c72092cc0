"""MCP servers and policies in the database; each statement runs in its caller's transaction."""

import json
from collections.abc import Mapping

from mlxmesh_shared.encryption import Cipher
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.sql.database import Row, Session, Value
from mlxmesh_shared.sql.statements import upsert
from mlxmesh_tools.domain.models import (
    Access,
    Approval,
    Http,
    Limits,
    Policy,
    ServerConfig,
    Stdio,
    Tool,
    Transport,
)

COLUMNS = (
    *("name", "kind", "command", "directory", "url", "secrets", "access"),
    *("timeout_ms", "max_result_bytes", "max_calls_at_once"),
    *("default_approval", "disabled", "created_ms", "revision"),
)
_PUT = upsert("servers", COLUMNS, ("name",))
_PUT_POLICY = upsert("policies", ("server", "tool", "approval", "definition"), ("server", "tool"))


async def find(session: Session, name: str, cipher: Cipher) -> ServerConfig | None:
    """A server by its name."""
    rows = await session.fetch("SELECT * FROM servers WHERE name = $1", name)
    return _config(rows[0], cipher) if rows else None


async def list_all(session: Session, cipher: Cipher) -> list[ServerConfig]:
    """All servers, by name."""
    rows = await session.fetch("SELECT * FROM servers ORDER BY name")
    return [_config(row, cipher) for row in rows]


async def count(session: Session) -> int:
    """How many servers there are."""
    [row] = await session.fetch("SELECT count(*) AS found FROM servers")
    return row["found"]


async def put(session: Session, config: ServerConfig, cipher: Cipher) -> None:
    """Stores a server."""
    limits = config.limits
    values: dict[str, Value] = {
        "name": config.name,
        "access": int(config.access),
        "timeout_ms": limits.timeout_ms,
        "max_result_bytes": limits.max_result_bytes,
        "max_calls_at_once": limits.max_calls_at_once,
        "default_approval": int(config.default_approval),
        "disabled": int(config.disabled),
        "created_ms": config.created_ms,
        "revision": config.revision,
        **_transport_values(config.transport, cipher),
    }
    await session.fetch(_PUT, *(values[column] for column in COLUMNS))


async def remove(session: Session, name: str) -> None:
    """Removes a server, with the policies of its tools."""
    await session.fetch("DELETE FROM servers WHERE name = $1", name)


async def policies(session: Session) -> dict[str, dict[str, Policy]]:
    """The policies that differ from their server's default, by server and tool."""
    found: dict[str, dict[str, Policy]] = {}
    for row in await session.fetch("SELECT * FROM policies"):
        policy = Policy(approval=Approval(row["approval"]), definition=row["definition"])
        found.setdefault(row["server"], {})[row["tool"]] = policy
    return found


async def put_policy(session: Session, tool: Tool, approval: Approval) -> None:
    """Sets the policy of a tool as it is now."""
    if approval is Approval.DEFAULT:
        statement = "DELETE FROM policies WHERE server = $1 AND tool = $2"
        await session.fetch(statement, tool.server, tool.name)
    else:
        values = (tool.server, tool.name, int(approval), tool.definition)
        await session.fetch(_PUT_POLICY, *values)


def _transport_values(transport: Transport, cipher: Cipher) -> dict[str, Value]:
    match transport:
        case Stdio():
            secrets = transport.environment
            command = json.dumps(transport.command)
            values = ("stdio", command, transport.directory, "")
        case Http():
            secrets = transport.headers
            values = ("http", "[]", "", transport.url)
    kind, command, directory, url = values
    encrypted = cipher.encrypt(json.dumps(dict(secrets)).encode())
    return {
        "kind": kind,
        "command": command,
        "directory": directory,
        "url": url,
        "secrets": encrypted,
    }


def _config(row: Row, cipher: Cipher) -> ServerConfig:
    return ServerConfig(
        name=row["name"],
        transport=_transport(row, cipher),
        access=Access(row["access"]),
        limits=Limits(
            timeout_ms=row["timeout_ms"],
            max_result_bytes=row["max_result_bytes"],
            max_calls_at_once=row["max_calls_at_once"],
        ),
        default_approval=Approval(row["default_approval"]),
        disabled=bool(row["disabled"]),
        created_ms=row["created_ms"],
        revision=row["revision"],
    )


def _transport(row: Row, cipher: Cipher) -> Transport:
    secrets = _secrets(row, cipher)
    if row["kind"] == "http":
        return Http(url=row["url"], headers=secrets)
    command = tuple(json.loads(row["command"]))
    return Stdio(command=command, environment=secrets, directory=row["directory"])


def _secrets(row: Row, cipher: Cipher) -> Mapping[str, str]:
    content = cipher.decrypt(bytes(row["secrets"]))
    if content is None:
        raise IllegalState(
            f"the secrets of the MCP server {row['name']} were encrypted with another tools.secret;"
            " restore that file, or remove the server and add it again"
        )
    return json.loads(content)

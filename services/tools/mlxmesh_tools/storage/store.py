"""What the service stores: servers, policies, calls, and entries for the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

from mlxmesh_shared.encryption import Cipher
from mlxmesh_shared.errors import IllegalState, ToolServerExists, ToolServerNotFound
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable
from mlxmesh_tools.domain.limits import MAX_SERVERS
from mlxmesh_tools.domain.models import Approval, CallRecord, Policy, ServerConfig, Tool
from mlxmesh_tools.storage import audit_rows, call_rows, server_rows
from mlxmesh_tools.storage.database import Change, ToolsDatabase


@dataclass(frozen=True, kw_only=True)
class Stored:
    """All servers and policies, as of one moment."""

    servers: Mapping[str, ServerConfig]
    policies: Mapping[str, Mapping[str, Policy]]


class ToolStore:
    """The tools database, with the secrets of servers encrypted."""

    def __init__(self, database: ToolsDatabase, cipher: Cipher) -> None:
        """Uses the database, which its caller closes."""
        self._database = database
        self._cipher = cipher

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    def subscribe(self) -> AbstractContextManager[asyncio.Event]:
        """An event that is set after each change; the subscriber clears it before it reads."""
        return self._database.subscribe()

    @uncancellable
    async def all(self) -> Stored:
        """Servers and policies. Raises: MeshError."""
        return await self.transactions.read(self._all)

    @uncancellable
    async def add(self, config: ServerConfig, actor: str) -> None:
        """Stores a new server. Raises: ToolServerExists, IllegalState."""
        async with self._database.changing(actor) as change:
            if await server_rows.find(change.session, config.name, self._cipher) is not None:
                raise ToolServerExists(f"there is an MCP server {config.name} already")
            if await server_rows.count(change.session) >= MAX_SERVERS:
                raise IllegalState(f"a mesh has at most {MAX_SERVERS} MCP servers; remove one")
            new = replace(config, created_ms=change.now_ms, revision=change.revision)
            await server_rows.put(change.session, new, self._cipher)
            await change.audit("tools.server_added", config.name)

    @uncancellable
    async def update(
        self, name: str, changed: Callable[[ServerConfig], ServerConfig], actor: str
    ) -> None:
        """Stores a changed server. Raises: ToolServerNotFound."""
        async with self._database.changing(actor) as change:
            before = await self._find(change, name)
            config = replace(changed(before), revision=change.revision)
            await server_rows.put(change.session, config, self._cipher)
            await change.audit("tools.server_updated", name, _differences(before, config))

    @uncancellable
    async def remove(self, name: str, actor: str) -> None:
        """Removes a server. Raises: ToolServerNotFound."""
        async with self._database.changing(actor) as change:
            await self._find(change, name)
            await server_rows.remove(change.session, name)
            await change.audit("tools.server_removed", name)

    @uncancellable
    async def set_policy(self, tool: Tool, approval: Approval, actor: str) -> None:
        """Sets the policy of a tool as it is now. Raises: ToolServerNotFound."""
        async with self._database.changing(actor) as change:
            await self._find(change, tool.server)
            await server_rows.put_policy(change.session, tool, approval)
            target = f"{tool.server}.{tool.name}"
            await change.audit("tools.policy_set", target, approval.name.lower())

    @uncancellable
    async def record(self, record: CallRecord) -> None:
        """Stores the record of a call, with its entry for the audit log."""
        outcome = record.failure.reason if record.failure else "ok"
        entry = audit_rows.Entry(
            time_ms=record.time_ms,
            actor=record.principal,
            action="tools.called",
            target=f"{record.server}.{record.tool}",
            details=f"{outcome}, call {record.call_id}",
        )
        async with self.transactions.write() as session:
            await call_rows.add(session, record)
            await audit_rows.add(session, entry)

    @uncancellable
    async def calls(
        self, *, principal: str, server: str, before: tuple[int, str], limit: int
    ) -> Sequence[CallRecord]:
        """The newest calls before a time and id, the newest first; empty names are all."""
        return await self.transactions.read(
            partial(
                call_rows.list_before,
                principal=principal,
                server=server,
                before=before,
                limit=limit,
            )
        )

    @uncancellable
    async def prune(self, *, before_ms: int) -> None:
        """Removes older records of calls."""
        async with self.transactions.write() as session:
            await call_rows.prune(session, before_ms=before_ms)

    @uncancellable
    async def audit_entries(self, limit: int) -> Sequence[audit_rows.Entry]:
        """The oldest entries that were not delivered."""
        return await self.transactions.read(partial(audit_rows.oldest, limit=limit))

    @uncancellable
    async def audit_delivered(self, batch: Sequence[audit_rows.Entry]) -> None:
        """Removes the oldest entries, which were delivered."""
        async with self.transactions.write() as session:
            await audit_rows.remove(session, through=batch[-1].number)

    async def _find(self, change: Change, name: str) -> ServerConfig:
        found = await server_rows.find(change.session, name, self._cipher)
        if found is None:
            raise unknown_server(name)
        return found

    async def _all(self, session: Session) -> Stored:
        servers = await server_rows.list_all(session, self._cipher)
        return Stored(
            servers={each.name: each for each in servers},
            policies=await server_rows.policies(session),
        )


def unknown_server(name: str) -> ToolServerNotFound:
    """There is no such server, or the caller may not use it."""
    return ToolServerNotFound(f"there is no MCP server {name}")


def _differences(before: ServerConfig, after: ServerConfig) -> str:
    """The names of what changed."""
    names = ("transport", "access", "limits", "default_approval", "disabled")
    return " ".join(name for name in names if getattr(before, name) != getattr(after, name))

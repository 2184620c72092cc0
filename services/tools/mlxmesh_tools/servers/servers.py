"""All MCP servers of this process, as the database says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace

from mlxmesh_tools.domain.models import Approval, ServerConfig, ServerStatus, State, Tool
from mlxmesh_tools.domain.policy import effective_approval
from mlxmesh_tools.domain.ports import Connect, Observer
from mlxmesh_tools.servers.supervisor import DEFAULT_TIMING, Supervisor, Timing
from mlxmesh_tools.storage.store import Stored, ToolStore

_DISABLED = ServerStatus(state=State.DISABLED)


class Servers:
    """One supervisor and task for each server that is not disabled."""

    def __init__(
        self,
        store: ToolStore,
        connect: Connect,
        observer: Observer,
        *,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self._store = store
        self._connect = connect
        self._observer = observer
        self._timing = timing
        self._stored = Stored(servers={}, policies={})
        self._supervisors: dict[str, Supervisor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._reconciling = asyncio.Lock()

    async def follow(self) -> None:
        """Follows the database until it is cancelled."""
        with self._store.subscribe() as changed:
            while True:
                changed.clear()
                await self.reconcile()
                await changed.wait()

    async def reconcile(self) -> None:
        """Starts and ends servers as the database says now; returns once those have ended."""
        async with self._reconciling:
            self._stored = stored = await self._store.all()
            wanted = {name: one for name, one in stored.servers.items() if not one.disabled}
            gone = [name for name, has in self._supervisors.items() if not _same(has, wanted)]
            await self._stop(gone)
            for name, config in wanted.items():
                if name in self._supervisors:
                    self._supervisors[name].config = config
                else:
                    self._start(config)

    async def close(self) -> None:
        """Ends all servers."""
        async with self._reconciling:
            await self._stop([*self._supervisors])

    def config(self, name: str) -> ServerConfig | None:
        """A server as it was set."""
        return self._stored.servers.get(name)

    def supervisor(self, name: str) -> Supervisor | None:
        """What keeps a server connected; None for a disabled one."""
        return self._supervisors.get(name)

    def status(self, name: str) -> ServerStatus:
        """How a server is doing."""
        supervisor = self._supervisors.get(name)
        return supervisor.status if supervisor is not None else _DISABLED

    def approval(self, config: ServerConfig, tool: Tool) -> Approval:
        """The policy of a tool, with the server's default filled in."""
        policy = self._stored.policies.get(config.name, {}).get(tool.name)
        return effective_approval(config, policy, tool)

    def __iter__(self) -> Iterator[ServerConfig]:
        """All servers, by name."""
        return iter([self._stored.servers[name] for name in sorted(self._stored.servers)])

    def _start(self, config: ServerConfig) -> None:
        supervisor = Supervisor(config, self._connect, self._observer, timing=self._timing)
        self._supervisors[config.name] = supervisor
        self._tasks[config.name] = asyncio.create_task(supervisor.run(), name=f"mcp-{config.name}")

    async def _stop(self, names: list[str]) -> None:
        tasks = [self._tasks.pop(name) for name in names]
        for name in names:
            del self._supervisors[name]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _same(supervisor: Supervisor, wanted: Mapping[str, ServerConfig]) -> bool:
    """Whether a server can go on as it is."""
    before = supervisor.config
    after = wanted.get(before.name)
    if after is None:
        return False
    ignored = {"access": before.access, "default_approval": before.default_approval}
    limits = replace(after.limits, timeout_ms=before.limits.timeout_ms)
    return replace(after, revision=before.revision, limits=limits, **ignored) == before

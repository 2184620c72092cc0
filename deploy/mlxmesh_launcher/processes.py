"""The processes of a mesh that the launcher supervises, started, replaced and stopped in order."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from typing import Any

from mlxmesh.control.v1 import launcher_pb2
from mlxmesh_launcher.child import Child
from mlxmesh_launcher.command_lines import CommandLines
from mlxmesh_launcher.initial_models import Report
from mlxmesh_launcher.launcher_events import service_message
from mlxmesh_launcher.readiness import (
    START_TIMEOUT_S,
    SUCCESSOR_TIMEOUT_S,
    spawn,
    until_serving,
)
from mlxmesh_launcher.service_settings import ACCESS, ON_USE, SERVICES, STARTED_TOGETHER
from mlxmesh_launcher.users import may_have_users
from mlxmesh_shared.errors import IllegalState, ServiceUnavailable
from mlxmesh_shared.registry import Registry

# A process that was replaced waits for its engines to load elsewhere, or its clients to move.
LEAVE_TIMEOUT_S = 600.0
_WITHOUT = {
    "access": "users cannot sign in, and new keys do not work",
    "jobs": "no jobs can be submitted",
    "worker": "no jobs run",
    "tools": "no tools can be called",
}

NewChild = Callable[[str, bool], Child]
"""A process of a service, and whether it takes over from one that still listens."""


class Processes:
    """Satisfies Supervised; `spawn`, `until_serving`, `keep_running`, then `stop`."""

    def __init__(
        self,
        names: Collection[str],
        new_child: NewChild,
        commands: CommandLines,
        registry: Registry,
        *,
        tls: bool,
        stop_timeouts_s: Mapping[str, float],
        starts_on: str = "",
    ) -> None:
        """names: the services that run from the start.
        starts_on: the host that starts others on their first use; empty for this one.
        """
        self._new_child = new_child
        self._commands = commands
        self._registry = registry
        self._tls = tls
        self._stop_timeouts_s = stop_timeouts_s
        self._starts_on = starts_on
        self._starting = asyncio.Lock()
        self._leaving: dict[Child, asyncio.Task[None]] = {}
        self.children = {name: new_child(name, False) for name in SERVICES if name in names}
        """By service, in starting order."""

    async def spawn(self) -> None:
        """Starts the processes. Gateways depend on whether there are users."""
        gateway = self.children.get("gateway")
        if ACCESS not in self.children or gateway is None:
            await asyncio.gather(*map(spawn, self.children.values()))
            return
        others = (child for child in self.children.values() if child is not gateway)
        await asyncio.gather(*map(spawn, others))
        await self._look_for_users()
        await spawn(gateway)

    async def _look_for_users(self) -> None:
        """Before a gateway starts."""
        if (access := self.children.get(ACCESS)) is not None:
            found = await may_have_users(access, self._registry, tls=self._tls)
            self._commands.has_users = found

    async def until_serving(self, report: Report) -> Mapping[str, str]:
        """Waits for all services; returns their addresses. Raises: ServiceUnavailable.

        A mesh serves without those that start on use.
        """

        async def address(child: Child) -> str:
            try:
                instance = await until_serving(child, self._registry)
            except ServiceUnavailable as error:
                if child.name not in ON_USE:
                    raise
                report(f"{_WITHOUT[child.name]}: {error}")
                return ""
            if child.name == "gateway":
                self._commands.pin(instance)
            return instance.address

        found = await asyncio.gather(*map(address, self.children.values()))
        return dict(zip(self.children, found, strict=True))

    def keep_running(self) -> None:
        """Starts each process again that ends, from now on."""
        for child in self.children.values():
            child.keep_running()

    async def start_service(self, name: str) -> tuple[launcher_pb2.SupervisedService, bool]:
        """As of Supervised."""
        async with self._starting:
            started = [await self._start_on_use(each) for each in STARTED_TOGETHER[name]]
            return service_message(self.children[name]), any(started)

    async def _start_on_use(self, name: str) -> bool:
        """Returns once the service serves; whether this call started it. Raises: MeshError."""
        if (child := self.children.get(name)) is not None:
            await until_serving(child, self._registry)
            return False
        if self._starts_on:
            raise IllegalState(
                f"the {name} service of this mesh runs on host {self._starts_on}, where its first"
                " use starts it: repeat this there"
            )
        new = self._new_child(name, False)
        await self._start(new, START_TIMEOUT_S)
        known = {**self.children, name: new}
        self.children = {each: known[each] for each in SERVICES if each in known}
        return True

    async def _start(self, new: Child, timeout_s: float) -> None:
        """Returns once the process serves; one that does not is ended. Raises: MeshError."""
        try:
            await spawn(new)
            await until_serving(new, self._registry, timeout_s)
        except BaseException:
            await new.stop(0)
            raise
        new.keep_running()

    def names(self, services: Sequence[str]) -> list[str]:
        """As of Supervised."""
        return [name for name in self.children if not services or name in services]

    def services(self) -> Sequence[launcher_pb2.SupervisedService]:
        """As of Supervised."""
        return [service_message(child) for child in self.children.values()]

    async def replace(self, name: str) -> AsyncGenerator[launcher_pb2.RestartPhase.ValueType]:
        """As of Supervised: the new process serves before the old one drains, if both can
        listen at the same time.
        """
        if (unfinished := self._leaving.get(self.children[name])) is not None:
            await asyncio.wait([unfinished])  # a restart whose caller left
        if name == "gateway":
            await self._look_for_users()
        overlaps = self._commands.can_overlap(name)
        old, new = self.children[name], self._new_child(name, overlaps)
        yield launcher_pb2.RESTART_PHASE_STARTING
        if overlaps:
            await self._start(new, SUCCESSOR_TIMEOUT_S)
            self.children[name] = new
            leaving = self._detach(old, old.stop(LEAVE_TIMEOUT_S))
        else:
            leaving = self._detach(old, self._start_after(old, new))
            await asyncio.shield(leaving)
        yield launcher_pb2.RESTART_PHASE_DRAINING
        await asyncio.shield(leaving)
        yield launcher_pb2.RESTART_PHASE_DONE

    async def _start_after(self, old: Child, new: Child) -> None:
        await old.stop(LEAVE_TIMEOUT_S)
        self.children[new.name] = new
        try:
            await spawn(new)
            await until_serving(new, self._registry)
        finally:
            new.keep_running()  # there is no other

    def _detach(self, old: Child, leaving: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs what ends a process in its own task: it continues when the caller is gone."""
        task = self._leaving[old] = asyncio.create_task(leaving)
        task.add_done_callback(lambda _: self._leaving.pop(old))
        return task

    async def stop(self, report: Report) -> None:
        """Stops every service, the gateway first: no new calls arrive while the rest drains."""
        leaving = dict(self._leaving)
        for task in leaving.values():
            task.cancel()  # else it might start a process
        await asyncio.gather(*leaving.values(), return_exceptions=True)
        stopping = [
            asyncio.create_task(old.stop(self._stop_timeouts_s[old.name])) for old in leaving
        ]
        for name, child in reversed(self.children.items()):
            if child.pid is not None:
                report(f"stopping {name}")
            await child.stop(self._stop_timeouts_s[name])
        await asyncio.gather(*stopping)

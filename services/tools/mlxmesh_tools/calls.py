"""Calls of tools: who may call, what is asked, within which limits, and what is recorded."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from mlxmesh_shared.errors import Cancelled, MeshError, ToolNeedsApproval, ToolNotFound
from mlxmesh_shared.rpc.caller import ForwardedCaller as Caller
from mlxmesh_tools.checking import parsed_arguments
from mlxmesh_tools.clock import Clock
from mlxmesh_tools.domain.models import (
    CallRecord,
    FailureFacts,
    Result,
    ServerConfig,
    ServerStatus,
    State,
    Tool,
)
from mlxmesh_tools.domain.policy import may_use, require_approval
from mlxmesh_tools.domain.ports import CheckArguments, Observer
from mlxmesh_tools.domain.results import bounded_result
from mlxmesh_tools.failures import shown_error, to_facts
from mlxmesh_tools.servers.servers import Servers
from mlxmesh_tools.storage.store import ToolStore, unknown_server
from mlxmesh_tools.tools import unknown_tool


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a caller asks for."""

    server: str
    tool: str
    function: str
    """Instead of server and tool."""
    arguments: str
    approved: bool
    request_id: str


@dataclass(frozen=True, kw_only=True)
class Called:
    """A call that a tool has answered."""

    result: Result
    record: CallRecord


class ToolCalls:
    """Each call is recorded, whether it succeeds, fails, is cancelled or is denied; one that still
    needs an approval is none.
    """

    def __init__(
        self,
        store: ToolStore,
        servers: Servers,
        check: CheckArguments,
        observer: Observer,
        *,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: the milliseconds since 1970. monotonic: seconds that never go backwards."""
        self._store = store
        self._servers = servers
        self._check = check
        self._observer = observer
        self._clock = clock
        self._monotonic = monotonic

    async def call(self, caller: Caller, asked: Asked) -> Called:
        """Calls a tool. Raises: MeshError."""
        config, tool = await self._found(caller, asked)
        record = self._begin(caller, asked, tool)
        started_s = self._monotonic()
        try:
            result = await self._result(config, tool, asked)
        except ToolNeedsApproval:
            raise  # it is asked for, and called again
        except MeshError as error:
            await self._end(record, started_s, failure=to_facts(error))
            raise shown_error(error, config.name, is_admin=caller.is_admin) from error
        except BaseException:
            await self._end(record, started_s, failure=to_facts(Cancelled("the caller left")))
            raise
        return Called(result=result, record=await self._end(record, started_s, result=result))

    async def _result(self, config: ServerConfig, tool: Tool, asked: Asked) -> Result:
        approval = self._servers.approval(config, tool)
        require_approval(approval, function=tool.function, approved=asked.approved)
        arguments = parsed_arguments(asked.arguments)
        await self._check(tool.input_schema, asked.arguments or "{}")
        supervisor = self._servers.supervisor(config.name)
        if supervisor is None:
            raise unknown_server(config.name)
        limits = config.limits
        raw = await supervisor.call(tool.name, arguments, timeout_s=limits.timeout_ms / 1000)
        return bounded_result(
            raw.blocks,
            raw.structured,
            is_error=raw.is_error,
            max_bytes=limits.max_result_bytes,
        )

    async def _found(self, caller: Caller, asked: Asked) -> tuple[ServerConfig, Tool]:
        """A server that the caller may not use is not there for it."""
        name = asked.server or asked.function.partition("__")[0]
        config = self._servers.config(name)
        if config is None or config.disabled or not may_use(config, is_admin=caller.is_admin):
            if asked.function:
                raise ToolNotFound(f"there is no tool {asked.function}")
            raise unknown_server(name)
        status = await self._listed(config, is_admin=caller.is_admin)
        for tool in status.tools:
            if asked.function == tool.function or (not asked.function and asked.tool == tool.name):
                return config, tool
        raise unknown_tool(name, asked.function or asked.tool)

    async def _listed(self, config: ServerConfig, *, is_admin: bool) -> ServerStatus:
        """Waits for a server that was not asked for its tools since this process started.

        Raises: ToolServerUnavailable for one that has never answered.
        """
        supervisor = self._servers.supervisor(config.name)
        if supervisor is None:
            raise unknown_server(config.name)
        if not supervisor.status.tools:
            await supervisor.settled(config.limits.timeout_ms / 1000)
        status = supervisor.status
        if status.state is not State.READY and not status.tools:
            why = status.failure.message if status.failure else "it is being connected"
            raise shown_error(supervisor.lost(why), config.name, is_admin=is_admin)
        return status

    def _begin(self, caller: Caller, asked: Asked, tool: Tool) -> CallRecord:
        arguments = asked.arguments.encode()
        return CallRecord(
            call_id=f"call_{secrets.token_hex(12)}",
            time_ms=self._clock(),
            principal=caller.principal,
            server=tool.server,
            tool=tool.name,
            approved=asked.approved,
            arguments_bytes=len(arguments),
            arguments_sha256=sha256(arguments).hexdigest(),
            request_id=asked.request_id,
        )

    async def _end(
        self,
        record: CallRecord,
        started_s: float,
        *,
        result: Result | None = None,
        failure: FailureFacts | None = None,
    ) -> CallRecord:
        """Completes the record; a failure to store it is one of the call."""
        duration_ms = (self._monotonic() - started_s) * 1000
        record = replace(record, duration_ms=duration_ms, failure=failure)
        if result is not None:
            content = (result.content + result.structured).encode()
            record = replace(
                record,
                result_bytes=len(content),
                result_sha256=sha256(content).hexdigest(),
                is_error=result.is_error,
            )
        self._observer.called(record)
        await self._store.record(record)
        return record

"""Publishes and counts what happens to MCP servers and calls. Satisfies Observer."""

import logging
import time
from collections.abc import Callable, Mapping

from mlxmesh_shared.events import Publish
from mlxmesh_shared.telemetry.metrics import Metrics
from mlxmesh_tools import tool_events
from mlxmesh_tools.domain.models import Approval, CallRecord, ServerConfig, ServerStatus, State
from mlxmesh_tools.telemetry import ToolTelemetry

MAX_CALL_EVENTS_PER_S = 10
_log = logging.getLogger("mlxmesh.tools")


class ToolObserver:
    """Nothing here waits or fails."""

    def __init__(
        self,
        publish: Publish,
        metrics: Metrics | None,
        *,
        states: Callable[[], Mapping[State, int]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publish = publish
        self._telemetry = ToolTelemetry(metrics, states=states)
        self._monotonic = monotonic
        self._told: dict[str, tuple[State, str]] = {}
        """By server, the last state and cause that was published."""
        self._second = (0, 0)
        """A second, and how many events of calls were published in it."""

    def added(self, server: str) -> None:
        """A server was added."""
        self._publish(tool_events.of_added(server), server)

    def updated(self, config: ServerConfig) -> None:
        """A server was changed."""
        self._publish(tool_events.of_updated(config.name, disabled=config.disabled), config.name)

    def removed(self, server: str) -> None:
        """A server was removed."""
        self._told.pop(server, None)
        self._publish(tool_events.of_removed(server), server)

    def policy_set(self, server: str, tool: str, approval: Approval) -> None:
        """The policy of a tool was set."""
        self._publish(tool_events.of_policy(server, tool, approval), server)

    def server_changed(self, config: ServerConfig, status: ServerStatus) -> None:
        name = config.name
        if status.state is State.READY:
            self._told[name] = (status.state, "")
            self._publish(tool_events.of_ready(name, status), name)
        elif status.state is State.FAILED and status.failure is not None:
            news = (status.state, status.failure.message)
            if self._told.get(name) != news:
                self._told[name] = news
                _log.warning("the MCP server %s cannot be used: %s", name, news[1])
                self._publish(tool_events.of_failed(name, status.failure), name)

    def called(self, record: CallRecord) -> None:
        self._telemetry.called(record)
        second, published = self._second
        now = int(self._monotonic())
        published = published if now == second else 0
        if published < MAX_CALL_EVENTS_PER_S:
            self._publish(tool_events.of_call(record), record.server)
        self._second = (now, published + 1)

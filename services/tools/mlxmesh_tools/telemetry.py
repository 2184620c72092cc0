"""Metrics of MCP servers and calls."""

from collections import Counter
from collections.abc import Callable, Mapping

from mlxmesh_shared.telemetry.instruments import Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Metrics, Reading
from mlxmesh_tools.domain.models import CallRecord, State

SERVER = "mlxmesh.tool.server"
STATE = "mlxmesh.tool.server.state"
OUTCOME = "mlxmesh.tool.outcome"
_DURATION_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)

CALLS = Instrument(
    "mlxmesh.tool.calls",
    Kind.COUNTER,
    "{call}",
    "Calls of tools that have ended, by MCP server and outcome: ok, tool_error, or the reason",
)
DURATION = Instrument(
    "mlxmesh.tool.call.duration",
    Kind.HISTOGRAM,
    "s",
    "Calls of tools from their beginning to their end, by MCP server",
    _DURATION_S,
)
SERVERS = Instrument(
    "mlxmesh.tool.servers", Kind.GAUGE, "{server}", "MCP servers of this process, by state"
)


class ToolTelemetry:
    """Counts what this process has done. Servers are few, so each is counted by its name."""

    def __init__(
        self, metrics: Metrics | None, *, states: Callable[[], Mapping[State, int]]
    ) -> None:
        """states: how many servers are in each state."""
        metrics = metrics or Metrics()
        self._states = states
        self._calls: Counter[tuple[str, str]] = Counter()
        self._durations = metrics.histogram(DURATION)
        metrics.observe(CALLS, self._read_calls)
        metrics.observe(SERVERS, self._read_servers)

    def called(self, record: CallRecord) -> None:
        """A call has ended."""
        self._calls[record.server, _outcome(record)] += 1
        self._durations.record(record.duration_ms / 1000, {SERVER: record.server})

    def _read_calls(self) -> Reading:
        for (server, outcome), count in [*self._calls.items()]:
            yield count, {SERVER: server, OUTCOME: outcome}

    def _read_servers(self) -> Reading:
        counts = self._states()
        for state in State:
            yield counts.get(state, 0), {STATE: state.name.lower()}


def _outcome(record: CallRecord) -> str:
    if record.failure is not None:
        return record.failure.reason.lower()
    return "tool_error" if record.is_error else "ok"

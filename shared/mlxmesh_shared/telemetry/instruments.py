"""Every metric of the mesh: its name, unit and meaning. docs/operations.md has the same table."""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How a metric is made."""

    HISTOGRAM = "histogram"
    """Recorded as things happen, once for each call or request."""
    COUNTED_HISTOGRAM = "counted histogram"
    """Counted in plain numbers on a hot path, and read for each export."""
    COUNTER = "counter"
    """A total, read for each export."""
    GAUGE = "gauge"
    """A value of now, read for each export."""


@dataclass(frozen=True)
class Instrument:
    """One metric."""

    name: str
    kind: Kind
    unit: str
    description: str
    bounds: tuple[float, ...] = ()
    """Of a histogram's buckets."""


_CALL_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_REQUEST_S = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
)
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08),
    *(0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)

# Names, units and bounds of OpenTelemetry's semantic conventions.

RPC_DURATION = Instrument(
    "rpc.server.call.duration",
    Kind.HISTOGRAM,
    "s",
    "How long calls took that a process served, by method and status",
    _CALL_S,
)
REQUEST_DURATION = Instrument(
    "gen_ai.server.request.duration",
    Kind.HISTOGRAM,
    "s",
    "From a generation's arrival to its end",
    _REQUEST_S,
)
TIME_TO_FIRST_TOKEN = Instrument(
    "gen_ai.server.time_to_first_token",
    Kind.HISTOGRAM,
    "s",
    "From a generation's arrival to its first token",
    _FIRST_TOKEN_S,
)
TIME_PER_OUTPUT_TOKEN = Instrument(
    "gen_ai.server.time_per_output_token",
    Kind.HISTOGRAM,
    "s",
    "Mean time between the tokens of a generation, after its first",
    _TOKEN_S,
)
TOKEN_USAGE = Instrument(
    "gen_ai.client.token.usage",
    Kind.HISTOGRAM,
    "{token}",
    "Tokens of a generation: gen_ai.token.type is input or output",
    _TOKENS,
)

# The mesh's own.

QUEUE_DEPTH = Instrument(
    "mlxmesh.engine.queue.depth", Kind.GAUGE, "{sequence}", "Sequences that wait for a place"
)
RUNNING = Instrument(
    "mlxmesh.engine.running", Kind.GAUGE, "{sequence}", "Sequences being prefilled or decoded"
)
MAX_RUNNING = Instrument(
    "mlxmesh.engine.running.limit", Kind.GAUGE, "{sequence}", "Most sequences that may run at once"
)
BATCH_SIZE = Instrument(
    "mlxmesh.engine.batch.size",
    Kind.COUNTED_HISTOGRAM,
    "{sequence}",
    "Sequences decoded in one step",
    _ROWS,
)
STEP_DURATION = Instrument(
    "mlxmesh.engine.step.duration",
    Kind.COUNTED_HISTOGRAM,
    "s",
    "From the end of one decode step to the end of the next",
    _TOKEN_S,
)
KV_BYTES = Instrument(
    "mlxmesh.engine.kv.bytes", Kind.GAUGE, "By", "Keys and values of the sequences that run"
)
KV_RESERVED = Instrument(
    "mlxmesh.engine.kv.reserved",
    Kind.GAUGE,
    "By",
    "Keys and values that running and waiting sequences may come to",
)
KV_CAPACITY = Instrument(
    "mlxmesh.engine.kv.capacity",
    Kind.GAUGE,
    "By",
    "Keys and values that running sequences may take; 0 when it is not known",
)
PREFIX_BYTES = Instrument(
    "mlxmesh.engine.prefix.bytes", Kind.GAUGE, "By", "Keys and values kept for later prompts"
)
PROMPT_TOKENS = Instrument(
    "mlxmesh.engine.prompt.tokens", Kind.COUNTER, "{token}", "Tokens of all prompts begun"
)
CACHED_TOKENS = Instrument(
    "mlxmesh.engine.prompt.cached_tokens",
    Kind.COUNTER,
    "{token}",
    "Prompt tokens that the prefix cache had; over prompt.tokens, the prefix hit ratio",
)
OUTPUT_TOKENS = Instrument(
    "mlxmesh.engine.output.tokens", Kind.COUNTER, "{token}", "Tokens made by decode steps"
)
GENERATIONS = Instrument(
    "mlxmesh.generation.running", Kind.GAUGE, "{generation}", "Generations that have not ended"
)
RESUMPTIONS = Instrument(
    "mlxmesh.generation.resumptions",
    Kind.COUNTER,
    "{resumption}",
    "Times that a generation went on after the loss of its engine",
)
BREAKERS = Instrument(
    "mlxmesh.breaker.state",
    Kind.GAUGE,
    "{instance}",
    "Instances by the state of the breaker in front of them: closed, open or half_open",
)
RELAYED_MESSAGES = Instrument(
    "mlxmesh.gateway.relayed.messages",
    Kind.COUNTER,
    "{message}",
    "Messages of streams that were passed on to clients",
)
GATEWAY_RESUMPTIONS = Instrument(
    "mlxmesh.gateway.resumptions",
    Kind.COUNTER,
    "{resumption}",
    "Times that a stream went on after the loss of its generation instance",
)
DROPPED = Instrument(
    "mlxmesh.telemetry.dropped",
    Kind.COUNTER,
    "{item}",
    "Spans and log records of this process that were lost, by signal",
)

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Instrument))

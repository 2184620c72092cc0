"""The metrics of an engine; docs/operations.md has the same table."""

from mlxmesh_shared.telemetry.instruments import TOKEN_TIME_BOUNDS_S, Instrument, Kind

_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)

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
    TOKEN_TIME_BOUNDS_S,
)
KV_BYTES = Instrument(
    "mlxmesh.engine.kv.bytes", Kind.GAUGE, "By", "Keys and values of the sequences that run"
)
KV_PROMISED = Instrument(
    "mlxmesh.engine.kv.promised",
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

"""The metrics of a generation instance; docs/operations.md has the same table."""

from mlxmesh_shared.telemetry.instruments import TOKEN_TIME_BOUNDS_S, Instrument, Kind

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
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)

# Names, units and bounds of OpenTelemetry's semantic conventions.

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
    TOKEN_TIME_BOUNDS_S,
)
TOKEN_USAGE = Instrument(
    "gen_ai.client.token.usage",
    Kind.HISTOGRAM,
    "{token}",
    "Tokens of a generation: gen_ai.token.type is input or output",
    _TOKENS,
)

# The mesh's own.

GENERATIONS = Instrument(
    "mlxmesh.generation.running", Kind.GAUGE, "{generation}", "Running generations"
)
RESUMPTIONS = Instrument(
    "mlxmesh.generation.resumptions",
    Kind.COUNTER,
    "{resumption}",
    "Resumptions of generations that lost their engine",
)

"""The metrics of a gateway beside those of its sinks; docs/operations.md has the same table."""

from mlxmesh_shared.telemetry.instruments import Instrument, Kind

RELAYED_MESSAGES = Instrument(
    "mlxmesh.gateway.relayed.messages",
    Kind.COUNTER,
    "{message}",
    "Messages of streams relayed to clients",
)
RESUMPTIONS = Instrument(
    "mlxmesh.gateway.resumptions",
    Kind.COUNTER,
    "{resumption}",
    "Resumptions of streams that lost their generation instance",
)

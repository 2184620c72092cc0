"""The metrics of a gateway beside those of its sinks; docs/operations.md has the same table."""

from mlxmesh_shared.telemetry.instruments import Instrument, Kind

RELAYED_MESSAGES = Instrument(
    "mlxmesh.gateway.relayed.messages",
    Kind.COUNTER,
    "{message}",
    "Messages of streams that were passed on to clients",
)
RESUMPTIONS = Instrument(
    "mlxmesh.gateway.resumptions",
    Kind.COUNTER,
    "{resumption}",
    "Times that a stream went on after the loss of its generation instance",
)

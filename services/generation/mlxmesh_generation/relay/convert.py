"""Converts the messages of relays."""

from collections.abc import Iterable

from mlxmesh.generation.v1.generation_pb2 import RelayResponse
from mlxmesh_generation.relay.outbox import Output
from mlxmesh_shared.rpc.error_status import to_failure


def relay_response(outputs: Iterable[Output]) -> RelayResponse:
    response = RelayResponse()
    add = response.outputs.add
    for output in outputs:
        message = add(stream_id=output.stream_id, message=output.message, ended=output.ended)
        if output.error is not None:
            message.failure.CopyFrom(to_failure(output.error))
    return response

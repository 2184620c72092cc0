"""Instances and breakers as GetMeshStatus tells of them."""

import math

from mlxmesh.telemetry.v1 import telemetry_pb2 as wire
from mlxmesh_shared.breaker import Breaker, BreakerState
from mlxmesh_shared.registry.port import Instance

_STATES = {
    BreakerState.CLOSED: wire.BREAKER_STATE_CLOSED,
    BreakerState.OPEN: wire.BREAKER_STATE_OPEN,
    BreakerState.HALF_OPEN: wire.BREAKER_STATE_HALF_OPEN,
}


def instance_message(instance: Instance) -> wire.Instance:
    """What an instance registered of itself."""
    return wire.Instance(
        service=instance.service,
        instance_id=instance.instance_id,
        address=instance.address,
        metadata=dict(instance.metadata),
    )


def breaker_message(breaker: Breaker) -> wire.Breaker:
    """A breaker as it is now."""
    return wire.Breaker(
        state=_STATES[breaker.state],
        failures=breaker.failures,
        retry_in_ms=math.ceil(breaker.retry_in_s * 1000),
    )

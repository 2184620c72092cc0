"""Instances and breakers as messages of GetMeshStatus and of events."""

import math

from mlxmesh.telemetry.v1 import telemetry_pb2 as wire
from mlxmesh.telemetry.v1.events_pb2 import BreakerClosed, BreakerOpened
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.resilience.breaker import Breaker, BreakerState

_STATES = {
    BreakerState.CLOSED: wire.BREAKER_STATE_CLOSED,
    BreakerState.OPEN: wire.BREAKER_STATE_OPEN,
    BreakerState.HALF_OPEN: wire.BREAKER_STATE_HALF_OPEN,
}


def instance_message(instance: Instance) -> wire.Instance:
    """A registered instance."""
    return wire.Instance(
        service=instance.service,
        instance_id=instance.instance_id,
        address=instance.address,
        metadata=dict(instance.metadata),
    )


def breaker_message(breaker: Breaker) -> wire.Breaker:
    """The current state of a breaker."""
    return wire.Breaker(
        state=_STATES[breaker.state],
        failures=breaker.failures,
        retry_in_ms=math.ceil(breaker.retry_in_s * 1000),
    )


def breaker_change(instance: Instance, breaker: Breaker) -> BreakerOpened | BreakerClosed:
    """The event of a breaker that has just opened or closed."""
    service, instance_id = instance.service, instance.instance_id
    if breaker.state is BreakerState.CLOSED:
        return BreakerClosed(service=service, instance_id=instance_id)
    return BreakerOpened(
        service=service,
        instance_id=instance_id,
        failures=breaker.failures,
        retry_in_ms=math.ceil(breaker.retry_in_s * 1000),
    )

"""Publishes that this gateway refuses calls, but not each refusal."""

import time
from collections.abc import Callable

from mlxmesh.telemetry.v1.events_pb2 import GatewayOverloaded
from mlxmesh_shared.events import Publish

PAUSE_S = 10.0


class OverloadEvents:
    """At most one event in PAUSE_S, the first at once; refusals in between are counted."""

    def __init__(
        self, publish: Publish, *, instance_id: str, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._publish = publish
        self._instance_id = instance_id
        self._now_s = now_s
        self._told_s = float("-inf")
        self._refused = 0

    def refused(self, running: int) -> None:
        """A call was refused while this many were running."""
        self._refused += 1
        now_s = self._now_s()
        if now_s - self._told_s < PAUSE_S:
            return
        self._told_s = now_s
        event = GatewayOverloaded(refused=self._refused, running=running)
        self._refused = 0
        self._publish(event, self._instance_id)

"""The jobs of a run: the same for the same seed."""

from __future__ import annotations

import json
import random

from mlxmesh.job.v1 import job_pb2 as pb

_WEBSOCKET_PART = 0.1
_AT_ONCE_PART, _SHORT_PART = 0.7, 0.25
_FAILING_PART = 0.02


def job(seed: int, number: int) -> pb.SubmitJobRequest:
    """A job with an id: most take no time, some take up to 3 s, some fail at first."""
    chance = random.Random(f"{seed}:{number}")
    connector = "simulation_websocket" if chance.random() < _WEBSOCKET_PART else "simulation_http"
    arguments = {
        "duration_s": _duration_s(chance),
        "steps": chance.choice((1, 3)),
        "failure_rate": 0.3 if chance.random() < _FAILING_PART else 0,
        "value": f"v{number}",
    }
    return pb.SubmitJobRequest(
        job_id=f"chaos-{seed}-{number}",
        connector=pb.ConnectorWork(connector=connector, arguments_json=json.dumps(arguments)),
        priority=chance.choice((0, 0, 0, 10)),
        # A job that fails with every fourth attempt must not fail for good.
        retry=pb.RetryPolicy(max_attempts=20, initial_delay_ms=200, max_delay_ms=2_000),
    )


def _duration_s(chance: random.Random) -> float:
    kind = chance.random()
    if kind < _AT_ONCE_PART:
        return 0
    if kind < _AT_ONCE_PART + _SHORT_PART:
        return round(chance.uniform(0.05, 0.5), 3)
    return round(chance.uniform(1, 3), 3)

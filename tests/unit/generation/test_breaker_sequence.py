"""What an engine's breaker learns from the sequences there; generations learn all of it."""

from typing import Any

import pytest

from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.engine.v1.engine_pb2 import Accepted, SequenceOutput
from mlxmesh_generation.placement import convert
from mlxmesh_generation.placement.engines import BreakerSequence, BreakerSink
from mlxmesh_generation.placement.sequence import EngineOutput
from mlxmesh_shared.errors import (
    EngineFailed,
    EngineLost,
    Internal,
    InvalidArgument,
    MeshError,
    QueueFull,
)
from mlxmesh_shared.resilience.breaker import Breaker, BreakerState
from mlxmesh_shared.rpc.error_status import to_failure

LENGTH = engine_pb2.ENGINE_FINISH_REASON_LENGTH


class Sink:
    """Remembers what it was told, and what the breaker said then."""

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.told: list[tuple[Any, BreakerState]] = []

    def on_output(self, output: EngineOutput) -> None:
        self.told.append((output, self.breaker.state))

    def on_lost(self, error: MeshError) -> None:
        self.told.append((error, self.breaker.state))


class Sequence:
    engine_id = "engine-1"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def cancel(self) -> None:
        self.calls.append("cancel")

    def drop(self) -> None:
        self.calls.append("drop")


def opened_and_due() -> Breaker:
    """A breaker that waits for its probe."""
    clock = 0.0
    breaker = Breaker(now_s=lambda: clock)
    breaker.admit().failed(at_once=True)
    clock += breaker.retry_in_s
    return breaker


def test_a_lost_engine_is_ejected_before_its_generations_look_for_another() -> None:
    breaker = Breaker()
    sink = Sink(breaker)
    error = EngineLost("lost")
    BreakerSink(sink, breaker.admit()).on_lost(error)
    assert sink.told == [(error, BreakerState.OPEN)]


def test_a_fault_of_our_own_is_not_the_engines() -> None:
    breaker = Breaker()
    BreakerSink(Sink(breaker), breaker.admit()).on_lost(Internal("a generation failed"))
    assert breaker.failures == 0


@pytest.mark.parametrize(
    ("failure", "failures"),
    [(EngineFailed("x"), 1), (QueueFull("x"), 0), (InvalidArgument("x"), 0)],
)
def test_a_failure_counts_by_whose_fault_it_is(failure: MeshError, failures: int) -> None:
    breaker = Breaker()
    sink = Sink(breaker)
    output = convert.engine_output(SequenceOutput(failure=to_failure(failure)))
    BreakerSink(sink, breaker.admit()).on_output(output)
    assert breaker.failures == failures
    assert [told for told, _ in sink.told] == [output]


@pytest.mark.parametrize(
    "output",
    [
        convert.engine_output(SequenceOutput(accepted=Accepted())),
        convert.engine_output(SequenceOutput(finish_reason=LENGTH)),
    ],
)
def test_a_sign_of_life_closes_the_breaker(output: EngineOutput) -> None:
    breaker = opened_and_due()
    BreakerSink(Sink(breaker), breaker.admit()).on_output(output)
    assert breaker.state is BreakerState.CLOSED


def test_a_dropped_sequence_makes_room_for_another_probe() -> None:
    breaker = opened_and_due()
    inner = Sequence()
    sequence = BreakerSequence(inner, breaker.admit())
    assert not breaker.ready
    sequence.cancel()
    assert not breaker.ready
    sequence.drop()
    assert breaker.ready
    assert (inner.calls, sequence.engine_id) == (["cancel", "drop"], "engine-1")

"""A sequence whose end is told to the breaker of its engine."""

from mlxmesh.engine.v1.engine_pb2 import SequenceOutput
from mlxmesh_generation.sequence import EngineSequence, SequenceSink
from mlxmesh_shared.breaker import Permit
from mlxmesh_shared.errors import EngineLost, MeshError, from_failure


class JudgedSink:
    """Satisfies SequenceSink: passes everything on to the generation's own."""

    def __init__(self, sink: SequenceSink, permit: Permit) -> None:
        self._sink = sink
        self._permit = permit

    def on_output(self, output: SequenceOutput) -> None:
        # The breaker first: what the generation does next may be to look for another engine.
        if output.HasField("failure"):
            self._permit.ended_by(from_failure(output.failure))
        elif output.finish_reason:
            self._permit.succeeded()
        else:
            self._permit.answered()
        self._sink.on_output(output)

    def on_lost(self, error: MeshError) -> None:
        if isinstance(error, EngineLost):
            self._permit.failed(at_once=True)
        else:
            self._permit.drop()
        self._sink.on_lost(error)


class JudgedSequence:
    """Satisfies EngineSequence: one that is dropped says nothing about its engine."""

    def __init__(self, sequence: EngineSequence, permit: Permit) -> None:
        self._sequence = sequence
        self._permit = permit

    @property
    def engine_id(self) -> str:
        return self._sequence.engine_id

    def cancel(self) -> None:
        self._sequence.cancel()

    def drop(self) -> None:
        self._permit.drop()
        self._sequence.drop()

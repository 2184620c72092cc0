"""What a generation and the engine that works on it know of each other."""

from collections.abc import Collection
from typing import Protocol

from mlxmesh.engine.v1.engine_pb2 import SequenceOutput, Submit
from mlxmesh_generation.catalogue import ModelVersion
from mlxmesh_shared.errors import MeshError


class SequenceSink(Protocol):
    """Who is told what becomes of a sequence; called on the event loop, must not block."""

    def on_output(self, output: SequenceOutput) -> None:
        """News from the engine; nothing follows a finish reason or a failure."""
        ...

    def on_lost(self, error: MeshError) -> None:
        """The sequence is gone with its stream; nothing follows."""
        ...


class EngineSequence(Protocol):
    """A sequence on an engine, as its owner holds it."""

    @property
    def engine_id(self) -> str: ...

    def cancel(self) -> None:
        """Asks the engine to end it; its last output still comes."""
        ...

    def drop(self) -> None:
        """Ends it and hears no more of it; nothing happens when it has ended."""
        ...


class Placer(Protocol):
    """Finds an engine for a sequence."""

    def place(
        self, version: ModelVersion, submit: Submit, sink: SequenceSink, *, avoid: Collection[str]
    ) -> EngineSequence:
        """Sends a sequence to the best engine that is not to be avoided.

        Raises: NoReplica, QueueFull.
        """
        ...

    async def wait_for_replica(self, version: ModelVersion) -> None:
        """Returns when an engine of this version may be there.

        Raises: EngineLost when there is none and none is wanted any more.
        """
        ...

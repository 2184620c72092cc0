"""What works behind the engine's service: MLX on its thread, or a simulation of it."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from mlxmesh_engine.scheduling.capacity import KvMemory
from mlxmesh_engine.scheduling.request import Load, StepOutputs
from mlxmesh_engine.service.dispatcher import Worker

Deliver = Callable[[StepOutputs, Load], None]
"""Takes one step's outputs; called on the event loop."""


class ModelFacts(Protocol):
    """A loaded model, as callers are told of it."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context_tokens(self) -> int: ...
    @property
    def eos_token_ids(self) -> frozenset[int]: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def dtype_note(self) -> str: ...
    @property
    def blas(self) -> str: ...
    @property
    def weights_bytes(self) -> int: ...
    @property
    def kv(self) -> KvMemory: ...


class Backend(Worker, Protocol):
    """Turns sequences into tokens, one step after another."""

    turns: int
    """Steps since the start."""
    dead: asyncio.Future[None]
    """Fails with what ended the backend, whatever that was; it never just stops."""

    async def start(self, deliver: Deliver) -> ModelFacts:
        """Loads the model and begins to turn. Raises what loading raised."""
        ...

    async def stop(self) -> None:
        """Ends after the present turn; what is running is forgotten."""
        ...

    @property
    def age_s(self) -> float:
        """Time since the last turn; it turns also when idle."""
        ...

    @property
    def load(self) -> Load: ...

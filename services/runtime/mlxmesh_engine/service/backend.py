"""The interface of what generates tokens: MLX on its thread, or a simulation."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from mlxmesh_engine.scheduling.capacity import KvMemory
from mlxmesh_engine.scheduling.images import ImageReader
from mlxmesh_engine.scheduling.request import Load, StepOutputs
from mlxmesh_engine.service.dispatcher import Encodes, Worker

Deliver = Callable[[StepOutputs, Load], None]
"""Receives one step's outputs; called on the event loop."""


class ModelFacts(Protocol):
    """The properties of a loaded model that callers can query."""

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
    @property
    def dimensions(self) -> int:
        """The length of its vectors; 0 if it makes none."""
        ...

    @property
    def image_reader(self) -> ImageReader | None:
        """None if the model reads no images."""
        ...


class Backend(Worker, Protocol):
    """Generates tokens for sequences, step by step."""

    steps: int
    """Steps since the start."""
    dead: asyncio.Future[None]
    """Fails with the error that ended the backend; a backend never ends silently."""

    async def start(self, deliver: Deliver) -> ModelFacts:
        """Loads the model and starts the steps. Raises: whatever loading raises."""
        ...

    async def stop(self) -> None:
        """Ends after the current step; active sequences are dropped."""
        ...

    @property
    def time_since_progress_s(self) -> float:
        """Time since the last step that was due; 0 while it has nothing to do."""
        ...

    @property
    def load(self) -> Load: ...


class Encoder(Backend, Encodes, Protocol):
    """A backend that encodes texts; sequences are refused before they reach it."""

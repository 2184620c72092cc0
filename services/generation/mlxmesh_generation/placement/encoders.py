"""Has texts encoded by the replicas of a version: by load, and elsewhere when an engine is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.placement.encode_work import EncodedPart, EncodeWork
from mlxmesh_generation.placement.engines import Engines, Replicas
from mlxmesh_generation.placement.router import RETRY_DELAY_S
from mlxmesh_shared.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineDraining,
    EngineLost,
    Internal,
    InvalidArgument,
    MeshError,
    NoReplica,
    QueueFull,
    ServiceUnavailable,
)

MAX_PART_INPUTS = 256
MAX_PART_TOKENS = 65_536
"""A part is what one loss repeats."""
MIN_PART_TOKENS = 2_048
"""Smaller parts are not worth another call."""
PARTS_PER_ENGINE = 2
"""How many parts of one request an engine has at a time: one computes while the other arrives."""
MAX_LOSSES = 3
"""A limit for texts that crash every engine they are sent to."""
QUEUE_WAIT_S = 10.0
"""How long a part waits for room in the engines' queues."""
RETRY_PAUSE_S = 0.1
DEADLINE_MARGIN_S = 0.05
"""The engine's deadline comes first, so that its error reaches the caller in time."""

Attempt = Callable[[str], AbstractContextManager[tuple[tuple[str, str], ...]]]
"""Observes one call to an engine, whose id it gets; gives the metadata of the call."""


@dataclass(frozen=True)
class Patience:
    """How long a request may take; times are those of time.monotonic()."""

    deadline_s: float | None
    engine_wait_s: float
    """How long it waits for an engine where it has no deadline."""

    def until_s(self, since_s: float) -> float:
        """When to stop waiting that began at a time."""
        if self.deadline_s is None:
            return since_s + self.engine_wait_s
        return self.deadline_s - DEADLINE_MARGIN_S

    def timeout_s(self) -> float | None:
        """What a call that begins now may take. Raises: DeadlineExceeded."""
        if self.deadline_s is None:
            return None
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline passed before the request reached an engine")
        return left_s - min(DEADLINE_MARGIN_S, left_s / 10)


class Encoders:
    """Encodes on connected engines; loads are those of `Replicas`."""

    def __init__(self, engines: Engines, replicas: Replicas) -> None:
        self._engines = engines
        self._replicas = replicas

    async def encode(
        self, version: ModelVersion, work: EncodeWork, patience: Patience, attempt: Attempt
    ) -> EncodedPart:
        """The results of all inputs, in order.

        Raises: EngineLost, QueueFull, DeadlineExceeded, and the engine's errors, with the index of
        the input in the whole request.
        """
        engines = max(1, self._engines.encoders(version))
        slices = parts([len(each.token_ids) for each in work.inputs], engines)
        places = asyncio.Semaphore(engines * PARTS_PER_ENGINE)

        async def encode(part: slice) -> EncodedPart:
            async with places:
                own = work._replace(inputs=work.inputs[part])
                call = _PartCall(self._engines, self._replicas, version, own, patience, attempt)
                return _checked(await call.run(part.start), len(own.inputs))

        tasks = [asyncio.create_task(encode(part)) for part in slices]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return EncodedPart(
            [vector for each in found for vector in each.vectors],
            [score for each in found for score in each.scores],
        )


class _PartCall:
    """Sends one part to one engine after another until it is encoded."""

    def __init__(
        self,
        engines: Engines,
        replicas: Replicas,
        version: ModelVersion,
        work: EncodeWork,
        patience: Patience,
        attempt: Attempt,
    ) -> None:
        self._engines = engines
        self._replicas = replicas
        self._version = version
        self._work = work
        self._patience = patience
        self._attempt = attempt
        self._losses = 0
        self._waiting_since_s = time.monotonic()
        self._full: QueueFull | None = None

    async def run(self, first_index: int) -> EncodedPart:
        """first_index: that of its first input in the request."""
        avoid: tuple[str, ...] = ()
        while True:
            try:
                engine_id = self._engines.pick_encoder(self._version, avoid)
            except NoReplica:
                self._check_time()
                await self._replicas.wait_for_replica(self._version)
                await asyncio.sleep(RETRY_PAUSE_S)
                avoid = ()
                continue
            try:
                with self._attempt(engine_id) as metadata:
                    work = self._work._replace(metadata=metadata)
                    timeout_s = self._patience.timeout_s()
                    return await self._engines.encode(engine_id, self._version, work, timeout_s)
            except InvalidArgument as error:
                raise _of_request(error, first_index) from error
            except (QueueFull, ServiceUnavailable, Cancelled) as error:
                self._note(error)
                avoid = (*avoid, engine_id)

    def _note(self, error: MeshError) -> None:
        """Raises: the error that ends the part."""
        if isinstance(error, QueueFull):
            if self._full is None:
                self._full, self._waiting_since_s = error, time.monotonic()
            return
        self._full = None
        self._waiting_since_s = time.monotonic()
        if isinstance(error, EngineDraining):
            return
        self._losses += 1
        if self._losses >= MAX_LOSSES:
            raise EngineLost(
                f"{self._losses} engines in a row were lost while they encoded these texts"
            ) from error

    def _check_time(self) -> None:
        """Raises: why the part was not encoded in time."""
        now_s = time.monotonic()
        until_s = self._patience.until_s(self._waiting_since_s)
        if self._full is not None and now_s >= min(until_s, self._waiting_since_s + QUEUE_WAIT_S):
            raise self._full
        if now_s < until_s:
            return
        if self._losses:
            raise EngineLost("the engine was lost and no other came in time; try again")
        raise NoReplica(
            f"no engine of {self._version} was ready in time; try again",
            retry_delay_s=RETRY_DELAY_S,
        )


def parts(tokens: Sequence[int], engines: int) -> list[slice]:
    """Cuts inputs of so many tokens each into parts of about equal work. Pure."""
    most = min(MAX_PART_TOKENS, max(MIN_PART_TOKENS, -(-sum(tokens) // engines)))
    found: list[slice] = []
    start = held = 0
    for place, count in enumerate(tokens):
        if place > start and (held + count > most or place - start == MAX_PART_INPUTS):
            found.append(slice(start, place))
            start, held = place, 0
        held += count
    return [*found, slice(start, len(tokens))]


def _checked(encoded: EncodedPart, inputs: int) -> EncodedPart:
    """Raises: Internal for an answer of another length, which no engine gives."""
    if len(encoded.vectors or encoded.scores) != inputs:
        raise Internal("the engine did not return a result for each text")
    return encoded


def _of_request(error: InvalidArgument, first_index: int) -> InvalidArgument:
    """An engine's refusal with the input's index in the whole request."""
    head, _, rest = error.field.removeprefix("inputs[").partition("]")
    if not error.field.startswith("inputs[") or not head.isdigit():
        return error
    field = f"inputs[{int(head) + first_index}]{rest}"
    return type(error)(error.message.replace(error.field, field), field=field)

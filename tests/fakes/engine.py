"""An EngineService without a model: deterministic tokens, steps and failures at the test's word."""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.engine.v1.engine_pb2 import (
    Accepted,
    Cancel,
    EncodeRequest,
    EncodeResponse,
    EngineLoad,
    ExecuteRequest,
    ExecuteResponse,
    GetEngineInfoRequest,
    GetEngineInfoResponse,
    Logprobs,
    SequenceOutput,
    SequenceTimings,
    Submit,
)
from mlxmesh.engine.v1.engine_pb2_grpc import (
    EngineServiceServicer,
    add_EngineServiceServicer_to_server,
)
from mlxmesh_shared.errors import (
    ContextTooLong,
    DeadlineExceeded,
    EngineDraining,
    FeatureNotSupported,
    InvalidArgument,
    MeshError,
    QueueFull,
    ServiceUnavailable,
)
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.error_status import to_failure
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.encoding import FakeEncoding

LOAD_EVERY_S = 0.3


def arithmetic_tokens(submit: Submit, index: int, vocab_size: int) -> int:
    """Depends on the prompt, the seed and the index alone, as a real engine's does."""
    return (sum(submit.prompt_token_ids) + submit.sampling.seed * 31 + index * 7) % vocab_size


def arithmetic_logprobs(tokens: Sequence[int], top: int, vocab_size: int) -> Logprobs:
    """Each token has half of the probability, the next id a quarter, and so on."""
    ranks = range(min(top, vocab_size))
    return Logprobs(
        chosen=[-math.log(2)] * len(tokens),
        top_token_ids=[(token + rank) % vocab_size for token in tokens for rank in ranks],
        top=[-math.log(2) * (1 + rank) for _ in tokens for rank in ranks],
    )


@dataclass
class FakeEngineOptions:
    engine_id: str = "engine-1"
    model: str = "pocket"
    model_version: int = 1
    kind: str = "generation"
    vocab_size: int = 500
    context_tokens: int = 1024
    eos_token_id: int | None = None
    max_running: int = 64
    max_waiting: int = 256
    kv_token_bytes: int = 1024
    kv_capacity_bytes: int = 2**40
    step_s: float = 0.001
    tokens_per_step: int = 1
    choose: Callable[[Submit, int, int], int] = arithmetic_tokens
    """The token of a submit at an index, in a vocabulary of the given size."""
    logprobs: Callable[[Sequence[int], int, int], Logprobs] = arithmetic_logprobs
    """Those of tokens, with so many of the most likely ones, in a vocabulary of the given size."""


@dataclass
class _Sequence:
    submit: Submit
    outbox: "_Outbox"
    received_s: float = field(default_factory=time.monotonic)
    tokens: list[int] = field(default_factory=list[int])
    started_s: float = 0.0


class _Outbox:
    """One stream's outputs of the step under way."""

    def __init__(self) -> None:
        self.outputs: list[SequenceOutput] = []
        self.messages: asyncio.Queue[ExecuteResponse | None] = asyncio.Queue()
        """None ends the stream."""
        self.loads = 0
        """How often it was told the load."""


class FakeEngine(EngineServiceServicer):
    """Serves while `running` is entered; everything else is public for tests to look at or set."""

    def __init__(self, options: FakeEngineOptions | None = None) -> None:
        self.options = options or FakeEngineOptions()
        self.encoding = FakeEncoding(
            kind=self.options.kind,
            vocab_size=self.options.vocab_size,
            context_tokens=self.options.context_tokens,
        )
        self.submits: list[Submit] = []
        self.cancels: list[Cancel] = []
        self.steps = 0
        self.draining = False
        self.refuse_next: deque[MeshError] = deque()
        """Failures of the next submits, before they are accepted."""
        self.fail_running: MeshError | None = None
        """Ends everything that runs at the next step."""
        self.may_step = asyncio.Event()
        """Cleared, the engine stands still."""
        self.may_step.set()
        self.adapters = set[str]()
        """The digests of adapters in its slots."""
        self.silent = False
        """Tells no load, as a frozen engine does not."""
        self._idle_since_s = time.monotonic()
        self._running: dict[tuple[_Outbox, int], _Sequence] = {}
        self._waiting: dict[tuple[_Outbox, int], _Sequence] = {}
        self._outboxes: list[_Outbox] = []
        self._server: MeshServer | None = None

    @property
    def sequences(self) -> int:
        """Those that run or wait."""
        return len(self._running) + len(self._waiting)

    @property
    def streams(self) -> int:
        """Execute streams that are open."""
        return len(self._outboxes)

    @property
    def instance(self) -> Instance:
        assert self._server is not None
        options = self.options
        return Instance(
            service="engine",
            instance_id=options.engine_id,
            address=self._server.address,
            pid=0,
            metadata={"model": options.model, "version": str(options.model_version)},
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeEngine"]:
        """Listens on a free port and steps until the context ends."""
        self._server = MeshServer(
            services=[(add_EngineServiceServicer_to_server, self)],
            service_names=["mlxmesh.engine.v1.EngineService"],
            name="engine",
        )
        await self._server.start()
        await self._server.set_serving()
        loop = asyncio.create_task(self._step_for_ever())
        try:
            yield self
        finally:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop
            await self.stop()

    def break_streams(self) -> None:
        """Ends every stream, as a fault of the network does; the engine lives on."""
        for outbox in list(self._outboxes):
            outbox.messages.put_nowait(None)

    async def stop(self) -> None:
        """Goes away with every stream at once, as a crash does."""
        if self._server is not None:
            await self._server.drain(grace_s=0, settle_s=0)

    async def load_told(self) -> None:
        """Returns once every stream has had the present load, and was told it once more."""
        wanted = [(each, each.loads + 2) for each in self._outboxes]
        while any(each.loads < loads for each, loads in wanted if each in self._outboxes):
            await asyncio.sleep(0.01)

    async def Execute(
        self, request_iterator: AsyncIterator[ExecuteRequest], context: Any
    ) -> AsyncIterator[ExecuteResponse]:
        outbox = _Outbox()
        self._outboxes.append(outbox)
        reader = asyncio.create_task(self._read(request_iterator, outbox))
        telling = asyncio.create_task(self._tell_load(outbox))
        try:
            while (message := await outbox.messages.get()) is not None:
                yield message
            raise ServiceUnavailable("the network failed")
        finally:
            reader.cancel()
            telling.cancel()
            self._outboxes.remove(outbox)
            for queue in (self._running, self._waiting):
                for key in [key for key in queue if key[0] is outbox]:
                    del queue[key]

    async def Encode(self, request: EncodeRequest, context: Any) -> EncodeResponse:
        response = await self.encoding.encode(request)
        response.load.CopyFrom(self._load())
        return response

    async def GetEngineInfo(
        self, request: GetEngineInfoRequest, context: Any
    ) -> GetEngineInfoResponse:
        options = self.options
        return GetEngineInfoResponse(
            engine_id=options.engine_id,
            model=options.model,
            model_version=options.model_version,
            device="cpu",
            dtype="float32",
            blas="reference",
            context_tokens=options.context_tokens,
            vocab_size=options.vocab_size,
            steps=self.steps,
            load=self._load(),
        )

    async def _tell_load(self, outbox: _Outbox) -> None:
        while True:
            if not self.silent:
                outbox.messages.put_nowait(ExecuteResponse(load=self._load()))
                outbox.loads += 1
            await asyncio.sleep(LOAD_EVERY_S)

    async def _read(self, requests: AsyncIterator[ExecuteRequest], outbox: _Outbox) -> None:
        async for request in requests:
            if request.HasField("submit"):
                self._submit(request.submit, outbox)
            else:
                self.cancels.append(request.cancel)
                for number in request.cancel.sequence_ids:
                    self._cancel((outbox, number))

    def _submit(self, submit: Submit, outbox: _Outbox) -> None:
        if submit.HasField("adapter"):
            self.adapters.add(submit.adapter.digest)
        self.submits.append(submit)
        try:
            self._check(submit, outbox)
        except MeshError as error:
            self._tell(outbox, SequenceOutput(failure=to_failure(error)), submit.sequence_id)
            return
        sequence = _Sequence(submit, outbox, tokens=list(submit.generated_token_ids))
        output = SequenceOutput(accepted=Accepted())
        if sequence.tokens and self._ends(sequence, sequence.tokens[-1], output):
            self._tell(outbox, output, submit.sequence_id)
            return
        self._waiting[outbox, submit.sequence_id] = sequence
        self._tell(outbox, SequenceOutput(accepted=Accepted()), submit.sequence_id)

    def _check(self, submit: Submit, outbox: _Outbox) -> None:
        if self.refuse_next:
            raise self.refuse_next.popleft()
        if self.options.kind in ("embedding", "rerank"):
            raise FeatureNotSupported("this engine encodes and generates nothing", field="model")
        if self.draining:
            raise EngineDraining("this engine is stopping; try another")
        key = (outbox, submit.sequence_id)
        if key in self._running or key in self._waiting:
            raise InvalidArgument("sequence_id is in use", field="sequence_id")
        self._check_model_limits(submit)
        held = self._count(self._running, submit.background)
        held += self._count(self._waiting, submit.background)
        if held >= self.options.max_running + self.options.max_waiting:
            raise QueueFull("the engine's queue is full; try again later", retry_delay_s=0.5)

    def _check_model_limits(self, submit: Submit) -> None:
        for name in ("prompt_token_ids", "generated_token_ids", "stop_token_ids"):
            for index, token_id in enumerate(getattr(submit, name)):
                if token_id >= self.options.vocab_size:
                    path = f"{name}[{index}]"
                    raise InvalidArgument(f"{path} is outside the vocabulary", field=path)
        for token_id in submit.sampling.logit_bias:
            if token_id >= self.options.vocab_size:
                path = f"sampling.logit_bias[{token_id}]"
                raise InvalidArgument(f"{path} is outside the vocabulary", field=path)
        if len(submit.prompt_token_ids) + submit.max_tokens > self.options.context_tokens:
            raise ContextTooLong("prompt and max_tokens exceed the context", field="max_tokens")

    def _cancel(self, key: tuple[_Outbox, int]) -> None:
        sequence = self._running.pop(key, None) or self._waiting.pop(key, None)
        if sequence is not None:
            reason = engine_pb2.ENGINE_FINISH_REASON_CANCELLED
            output = SequenceOutput(finish_reason=reason, timings=_timings(sequence))
            self._tell(key[0], output, key[1])

    def _tell(self, outbox: _Outbox, output: SequenceOutput, sequence_id: int) -> None:
        output.sequence_id = sequence_id
        outbox.messages.put_nowait(ExecuteResponse(outputs=[output], load=self._load()))

    async def _step_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.options.step_s)
            await self.may_step.wait()
            self.step()

    def step(self) -> None:
        """One step of the batch: a message for each stream that has news."""
        self.steps += 1
        # Those of the background only while no other one waits.
        waiting = sorted(self._waiting, key=lambda key: self._waiting[key].submit.background)
        for key in waiting:
            background = self._waiting[key].submit.background
            if self._count(self._running, background) >= self.options.max_running:
                break
            sequence = self._running[key] = self._waiting.pop(key)
            sequence.started_s = time.monotonic()
            self._tell_prompt_logprobs(sequence)
        if self._running:
            self._idle_since_s = time.monotonic()
        pause = bool(self._count(self._running, background=False))
        for key, sequence in list(self._running.items()):
            if pause and sequence.submit.background:
                continue
            output = self._advance(sequence)
            output.sequence_id = key[1]
            if output.finish_reason or output.HasField("failure"):
                del self._running[key]
            sequence.outbox.outputs.append(output)
            self._flush_later(sequence.outbox)
        self.fail_running = None

    def _flush_later(self, outbox: _Outbox) -> None:
        if len(outbox.outputs) == 1:
            asyncio.get_running_loop().call_soon(self._flush, outbox)

    def _flush(self, outbox: _Outbox) -> None:
        outbox.messages.put_nowait(ExecuteResponse(outputs=outbox.outputs, load=self._load()))
        outbox.outputs = []

    def _tell_prompt_logprobs(self, sequence: _Sequence) -> None:
        """In two outputs, as of a prompt that is prefilled in slices."""
        submit = sequence.submit
        if not submit.logprobs.prompt:
            return
        later = submit.prompt_token_ids[1:]
        half = (len(later) + 1) // 2
        for part in filter(None, (later[:half], later[half:])):
            output = SequenceOutput(prompt_logprobs=self._logprobs(submit, part))
            self._tell(sequence.outbox, output, submit.sequence_id)

    def _logprobs(self, submit: Submit, tokens: Sequence[int]) -> Logprobs:
        return self.options.logprobs(tokens, submit.logprobs.top, self.options.vocab_size)

    def _advance(self, sequence: _Sequence) -> SequenceOutput:
        if self.fail_running is not None:
            return SequenceOutput(failure=to_failure(self.fail_running))
        submit = sequence.submit
        past_s = time.monotonic() - sequence.received_s
        if submit.HasField("timeout_ms") and past_s * 1000 >= submit.timeout_ms:
            error = DeadlineExceeded("the deadline passed before the answer was complete")
            return SequenceOutput(failure=to_failure(error))
        output = SequenceOutput()
        for _ in range(self.options.tokens_per_step):
            token = self.options.choose(submit, len(sequence.tokens), self.options.vocab_size)
            sequence.tokens.append(token)
            output.token_ids.append(token)
            if self._ends(sequence, token, output):
                output.timings.CopyFrom(_timings(sequence))
                break
        if submit.HasField("logprobs"):
            output.logprobs.CopyFrom(self._logprobs(submit, output.token_ids))
        return output

    def _ends(self, sequence: _Sequence, token: int, output: SequenceOutput) -> bool:
        submit = sequence.submit
        is_eos = token == self.options.eos_token_id and not submit.ignore_eos
        if is_eos or token in submit.stop_token_ids:
            output.finish_reason = engine_pb2.ENGINE_FINISH_REASON_STOP
        elif len(sequence.tokens) >= submit.max_tokens:
            output.finish_reason = engine_pb2.ENGINE_FINISH_REASON_LENGTH
        return bool(output.finish_reason)

    def _count(self, sequences: dict[tuple[_Outbox, int], _Sequence], background: bool) -> int:
        return sum(each.submit.background == background for each in sequences.values())

    def _load(self) -> EngineLoad:
        every = [each.submit for each in (*self._running.values(), *self._waiting.values())]
        held = [submit for submit in every if not submit.background]
        now_s = time.monotonic()
        waiting = [each for each in self._waiting.values() if not each.submit.background]
        if every:
            self._idle_since_s = now_s
        tokens = sum(len(submit.prompt_token_ids) + submit.max_tokens for submit in held)
        return EngineLoad(
            adapters=sorted(self.adapters),
            running=self._count(self._running, background=False),
            waiting=len(waiting),
            background_running=self._count(self._running, background=True),
            background_waiting=self._count(self._waiting, background=True),
            max_running=self.options.max_running,
            max_waiting=self.options.max_waiting,
            kv_capacity_bytes=self.options.kv_capacity_bytes,
            kv_reserved_bytes=tokens * self.options.kv_token_bytes,
            longest_wait_ms=round(
                max((now_s - each.received_s for each in waiting), default=0.0) * 1e3
            ),
            idle_ms=0 if every else round((now_s - self._idle_since_s) * 1e3),
        )


def _timings(sequence: _Sequence) -> SequenceTimings:
    if not sequence.started_s:
        return SequenceTimings()
    queue_s = sequence.started_s - sequence.received_s
    return SequenceTimings(
        queue_ms=queue_s * 1000, decode_ms=(time.monotonic() - sequence.started_s) * 1000
    )

"""The traffic of this gateway over the last minute.

A message costs two additions and one clock read; only a stream's messages up to its first output,
and its last one, are parsed.
"""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from mlxmesh.generation.v1.embedding_pb2 import EmbedResponse, RerankResponse
from mlxmesh.generation.v1.generation_pb2 import (
    CompleteResponse,
    Finished,
    GenerateResponse,
    Started,
)
from mlxmesh.telemetry.v1.traffic_pb2 import Histogram, Percentiles, Traffic, TrafficCounts
from mlxmesh_gateway.forwarding.recording import is_last
from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_shared.errors import Cancelled
from mlxmesh_shared.telemetry import histograms
from mlxmesh_shared.telemetry.histograms import bucket_of

SLOT_NS = 5 * 10**9
SLOTS = 12
MAX_SEQUENCE = 2**63
"""Above the number of every message."""

ENCODED: Mapping[str, type[EmbedResponse | RerankResponse]] = {
    "/mlxmesh.generation.v1.EmbeddingService/Embed": EmbedResponse,
    "/mlxmesh.generation.v1.EmbeddingService/Rerank": RerankResponse,
}
"""The responses of the methods that encode texts, by the methods' paths."""

Clock = Callable[[], int]
"""Nanoseconds of a monotonic clock."""


class _Slot:
    """The counts of five seconds."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ends_ns = (number + 1) * SLOT_NS
        self.requests = 0
        self.errors = 0
        self.completion_tokens = 0
        self.first: Counter[int] = Counter()
        self.between: Counter[int] = Counter()


class ModelWindow:
    """The counts of one model over the last minute."""

    def __init__(self) -> None:
        self.running = 0
        self._slots: deque[_Slot] = deque([_Slot(0)], maxlen=SLOTS)

    def slot(self, now_ns: int) -> _Slot:
        """The slot of now."""
        number = now_ns // SLOT_NS
        if self._slots[-1].number != number:
            self._slots.append(_Slot(number))
        return self._slots[-1]

    def counts(self, model: str, now_ns: int) -> TrafficCounts:
        """The sum of the last minute."""
        oldest = now_ns // SLOT_NS - SLOTS + 1
        slots = [slot for slot in self._slots if slot.number >= oldest]
        return TrafficCounts(
            model=model,
            running=self.running,
            requests=sum(slot.requests for slot in slots),
            errors=sum(slot.errors for slot in slots),
            completion_tokens=sum(slot.completion_tokens for slot in slots),
            time_to_first_token=Histogram(counts=histograms.merged(slot.first for slot in slots)),
            between_messages=Histogram(counts=histograms.merged(slot.between for slot in slots)),
        )


class GatewayTraffic:
    """The windows of all models that have answered at this gateway.

    A model is the name in Started, which the catalogue bounds; never a client's text.
    """

    def __init__(self, clock: Clock = time.monotonic_ns) -> None:
        self._clock = clock
        self._windows: defaultdict[str, ModelWindow] = defaultdict(ModelWindow)

    def generation(self, used: Used | None = None) -> "Observed":
        """Counts one generation until the end of the body, and fills in what it used."""
        return Observed(self._windows, self._clock, used or Used())

    def counts(self) -> list[TrafficCounts]:
        """By model; the empty name has generations that ended before their model was known."""
        now_ns = self._clock()
        return [window.counts(model, now_ns) for model, window in sorted(self._windows.items())]


class Observed:
    """One generation under observation."""

    def __init__(self, windows: defaultdict[str, ModelWindow], clock: Clock, used: Used) -> None:
        self.finished = False
        """Whether the last message was the end of the generation; known when the body has ended."""
        self._windows = windows
        self._used = used
        self._clock = clock
        self._window = windows[""]
        self._started_ns = self._last_ns = clock()
        self._slot = self._window.slot(self._started_ns)
        self._has_output = False
        self._last = b""

    def __enter__(self) -> Self:
        self._window.running += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._window.running -= 1
        slot = self._window.slot(self._clock())
        slot.requests += 1
        if self._last:
            self._end(GenerateResponse.FromString(self._last))
        if error is None:
            slot.completion_tokens += self._used.completion_tokens
        elif not isinstance(error, Cancelled | asyncio.CancelledError):
            slot.errors += 1
            self._used.failed = True

    def message(self, encoded: bytes) -> None:
        """Counts one raw message of the stream."""
        now_ns = self._clock()
        self._last = encoded
        if now_ns >= self._slot.ends_ns:
            self._slot = self._window.slot(now_ns)
        if self._has_output:
            self._used.messages += 1
            self._slot.between[bucket_of((now_ns - self._last_ns) // 1000)] += 1
        else:
            self._begin(encoded, now_ns)
        self._last_ns = now_ns

    def answer(self, encoded: bytes) -> None:
        """Counts the response of a generation without a stream."""
        response = CompleteResponse.FromString(encoded)
        self._begin_with(response.started)
        self._end_with(response.finished)
        self._used.last_sequence = MAX_SEQUENCE

    def encoded(self, response: EmbedResponse | RerankResponse) -> None:
        """Counts the response to texts that were encoded."""
        self._belongs_to(response.model)
        used = self._used
        used.model, used.model_version = response.model, response.model_version
        used.prompt_tokens = response.prompt_tokens
        used.on_started()

    def _begin(self, encoded: bytes, now_ns: int) -> None:
        response = GenerateResponse.FromString(encoded)
        if response.HasField("started"):
            self._begin_with(response.started)
        elif response.HasField("delta") or response.HasField("finished"):
            self._has_output = True
            self._used.messages += 1
            self._used.first_output_ns = now_ns
            self._slot.first[bucket_of((now_ns - self._started_ns) // 1000)] += 1

    def _begin_with(self, started: Started) -> None:
        self._belongs_to(started.model)
        used = self._used
        used.request_id = started.request_id
        used.created_ns = started.create_time.ToNanoseconds()
        used.model, used.model_version = started.model, started.model_version
        used.adapter = started.adapter.name
        used.arm, used.engine_id = started.arm, started.engine_id
        used.prompt_tokens, used.cached_tokens = prompt_usage(started)
        used.on_started()

    def _end(self, last: GenerateResponse) -> None:
        self._used.last_sequence = last.sequence
        self.finished = is_last(last)
        if self.finished:
            self._end_with(last.finished)

    def _end_with(self, finished: Finished) -> None:
        used, usage = self._used, finished.total_usage
        used.completion_tokens = used.total_tokens = usage.completion_tokens
        # Without usage, what Started said stays: a service may know no more.
        used.prompt_tokens = usage.prompt_tokens or used.prompt_tokens
        used.cached_tokens = usage.cached_tokens or used.cached_tokens
        used.device_ms = finished.device_ms
        used.finish_reason = finished.finish_reason

    def _belongs_to(self, model: str) -> None:
        self._window.running -= 1
        self._window = self._windows[model]
        self._window.running += 1
        self._slot = self._window.slot(self._clock())


def prompt_usage(started: Started) -> tuple[int, int]:
    """The tokens of a prompt and how many were cached; with those of an ensemble's other steps."""
    others = [step.usage for step in started.steps]
    prompt_tokens = started.prompt_tokens + sum(usage.prompt_tokens for usage in others)
    return prompt_tokens, started.cached_tokens + sum(usage.cached_tokens for usage in others)


def merged(counts: Iterable[TrafficCounts]) -> list[Traffic]:
    """What several gateways counted: all models together, then each by name."""
    by_model: dict[str, list[TrafficCounts]] = defaultdict(list)
    every = list(counts)
    for one in every:
        by_model[one.model].append(one)
    named = sorted(by_model.items())
    return [total(every), *(total(each, model) for model, each in named if model)]


def total(counts: Iterable[TrafficCounts], model: str = "") -> Traffic:
    """The sum of some counts, with percentiles instead of histograms."""
    every = list(counts)
    return Traffic(
        model=model,
        running=sum(one.running for one in every),
        requests=sum(one.requests for one in every),
        errors=sum(one.errors for one in every),
        completion_tokens=sum(one.completion_tokens for one in every),
        time_to_first_token=_percentiles(one.time_to_first_token for one in every),
        between_messages=_percentiles(one.between_messages for one in every),
    )


def _percentiles(each: Iterable[Histogram]) -> Percentiles:
    counts = histograms.merged(one.counts for one in each)
    p50_ms, p90_ms, p99_ms = histograms.percentiles_ms(counts, (50, 90, 99))
    return Percentiles(count=counts.total(), p50_ms=p50_ms, p90_ms=p90_ms, p99_ms=p99_ms)

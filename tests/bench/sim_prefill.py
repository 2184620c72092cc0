"""The scheduling of prefill beside decode over step times from 2 to 500 ms, in virtual time.

    .venv/bin/python -m tests.bench.sim_prefill

The engine's real Scheduler plans every step; only the duration of a step is made up: a decode step
takes `decode_s` and `row_s` for each row, a pass of prefill `pass_s` and `token_s` for each token,
padding included. Nothing sleeps and nothing is random but the arrivals, by a fixed seed, so equal
code gives equal figures. Every figure stands beside a bound that no schedule can beat.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace

from rich.console import Console
from rich.table import Table

from mlxmesh_engine.cache.kv_cache import Batching
from mlxmesh_engine.forward.prefill import group_slices
from mlxmesh_engine.scheduling.prefill_plan import PrefillSlice, count_tokens
from mlxmesh_engine.scheduling.request import SequenceRequest
from mlxmesh_engine.scheduling.scheduler import Scheduler
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.scheduling.step_times import StepTimes
from tests.bench.samples import percentile


@dataclass(frozen=True)
class Machine:
    """How long a model's steps take."""

    name: str
    decode_s: float
    row_s: float
    pass_s: float
    token_s: float

    def decode(self, rows: int) -> float:
        """The duration of a decode step."""
        return self.decode_s + self.row_s * rows

    def prefill(self, slices: Sequence[PrefillSlice]) -> float:
        """The duration of a step's passes."""
        return sum(
            self.pass_s + self.token_s * len(group) * max(slice_.count for slice_ in group)
            for group in group_slices(slices, Batching.TOGETHER)
            if any(slice_.count for slice_ in group)
        )


def machine(decode_ms: float, tokens_per_second: float) -> Machine:
    """A pass reads the weights once as a decode step does; a row costs a fortieth of a step."""
    decode_s = decode_ms / 1e3
    return Machine(
        f"{decode_ms:g} ms, {tokens_per_second:g}/s",
        decode_s,
        decode_s / 40,
        decode_s / 2,
        1 / tokens_per_second,
    )


MACHINES = tuple(
    machine(decode_ms, rate)
    for decode_ms, rate in (
        (2, 5000),
        (2, 1000),
        (10, 5000),
        (10, 1000),
        (50, 2000),
        (50, 500),
        (200, 500),
        (200, 150),
        (500, 200),
        (500, 50),
    )
)


@dataclass(frozen=True)
class Arrival:
    """A request: when it comes, how long its prompt and its output are."""

    at_s: float
    prompt_tokens: int
    new_tokens: int
    then: int = 0
    """How many more requests like this one follow, each when the one before it ended."""


@dataclass
class Stream:
    """What one request saw."""

    arrival: Arrival
    submitted_s: float
    emitted_s: list[float] = field(default_factory=list)

    @property
    def ttft_s(self) -> float:
        """The time to the first token."""
        return self.emitted_s[0] - self.submitted_s

    @property
    def gaps_s(self) -> Iterator[float]:
        """The times between tokens."""
        return (after - before for before, after in itertools.pairwise(self.emitted_s))


@dataclass(frozen=True)
class Outcome:
    """All requests of one scenario."""

    streams: list[Stream]
    end_s: float
    steps: int

    @property
    def tokens_per_second(self) -> float:
        """New tokens over the time of the whole run."""
        return sum(len(stream.emitted_s) for stream in self.streams) / self.end_s

    def ttft_s(self, share: float, *, prompt_tokens: int | None = None) -> float:
        """A percentile of the time to the first token, of prompts of one length if given."""
        times = [
            stream.ttft_s
            for stream in self.streams
            if prompt_tokens in (None, stream.arrival.prompt_tokens)
        ]
        return percentile(sorted(times), share)

    def gap_s(self, share: float) -> float:
        """A percentile of the time between two tokens of a stream."""
        return percentile(sorted(gap for each in self.streams for gap in each.gaps_s), share)


class Simulation:
    """The engine's step loop on a device that computes when it is asked to, as a CPU does."""

    def __init__(self, machine: Machine, scheduler: Scheduler) -> None:
        self._machine = machine
        self._scheduler = scheduler
        self._now_s = 0.0
        self._numbers = itertools.count(1)
        self._pending: list[tuple[float, int, Arrival]] = []
        self._streams: dict[int, Stream] = {}
        self._decoding: list[ActiveSequence] = []
        self._times = StepTimes(overlapping=False)
        self.steps = 0

    def run(self, arrivals: Iterable[Arrival]) -> Outcome:
        """Serves all requests."""
        for arrival in arrivals:
            self._expect(arrival.at_s, arrival)
        while self._pending or self._scheduler.running or self._scheduler.waiting:
            self._submit_arrived()
            self._step()
        return Outcome(list(self._streams.values()), self._now_s, self.steps)

    def _expect(self, at_s: float, arrival: Arrival) -> None:
        heapq.heappush(self._pending, (at_s, next(self._numbers), arrival))

    def _submit_arrived(self) -> None:
        if not self._scheduler.running and not self._scheduler.waiting:
            self._now_s = max(self._now_s, self._pending[0][0])
        while self._pending and self._pending[0][0] <= self._now_s:
            at_s, number, arrival = heapq.heappop(self._pending)
            self._streams[number] = Stream(arrival, at_s)
            prompt = tuple(range(arrival.prompt_tokens))
            request = SequenceRequest((1, number), prompt, arrival.new_tokens, submitted_s=at_s)
            self._scheduler.add(ActiveSequence(request))

    def _step(self) -> None:
        self._scheduler.admit(self._now_s)
        rows = list(self._decoding)
        if rows:
            self._now_s += self._machine.decode(len(rows))
            self._emit(rows)
        if (step := self._times.ended(self._now_s, decoding=bool(rows))) is not None:
            self._scheduler.record_step(step)
        slices = self._scheduler.plan_prefill()
        self._times.prefill_started(count_tokens(slices))
        self._now_s += self._machine.prefill(slices)
        self._decoding += [slice_.active for slice_ in slices if self._scheduler.advance(slice_)]
        self.steps += 1

    def _emit(self, rows: list[ActiveSequence]) -> None:
        for active in rows:
            stream = self._streams[active.key[1]]
            stream.emitted_s.append(self._now_s)
            if len(stream.emitted_s) == stream.arrival.new_tokens:
                self._scheduler.remove(active)
                self._decoding.remove(active)
                self._follow(stream.arrival)

    def _follow(self, arrival: Arrival) -> None:
        if arrival.then:
            self._expect(self._now_s, replace(arrival, then=arrival.then - 1))


def simulate(machine: Machine, arrivals: Iterable[Arrival], *, warm: bool = True) -> Outcome:
    """One scenario on an engine that has served before (`warm`), or has measured nothing yet."""
    scheduler = Scheduler(max_running=64, prefill_tokens_per_step=512)
    if warm:
        Simulation(machine, scheduler).run([Arrival(0, 64, 20), *burst(8)])
    return Simulation(machine, scheduler).run(arrivals)


PROMPT_TOKENS = 64
NEW_TOKENS = 64
STREAMS = 8


def burst(count: int, *, at_s: float = 0.0) -> list[Arrival]:
    """Requests that arrive together."""
    return [Arrival(at_s, PROMPT_TOKENS, NEW_TOKENS) for _ in range(count)]


def decoding(new_tokens: int) -> list[Arrival]:
    """The sequences that decode while others come."""
    return [Arrival(0.0, PROMPT_TOKENS, new_tokens) for _ in range(STREAMS)]


def decode_start_s(machine: Machine) -> float:
    """When `decoding` has its first tokens for sure."""
    return STREAMS * (machine.pass_s + machine.token_s * PROMPT_TOKENS) + 20 * machine.decode(8)


def streams(count: int) -> list[Arrival]:
    """Clients that send a request when their last one ended, out of step with each other."""
    rng = random.Random(count)
    lengths = [rng.randint(NEW_TOKENS // 4, NEW_TOKENS) for _ in range(count)]
    return [Arrival(0.0, PROMPT_TOKENS, length, then=6) for length in lengths]


def prefill_bound_s(machine: Machine, count: int) -> float:
    """The least time until `count` prompts have their first token: one pass and one step."""
    tokens = count * (PROMPT_TOKENS - 1)
    return machine.pass_s + tokens * machine.token_s + machine.decode(count)


def burst_bound_tokens_per_second(machine: Machine, count: int) -> float:
    """The most tokens per second of a burst: all prompts in one pass, then full batches."""
    prefill_s = prefill_bound_s(machine, count) - machine.decode(count)
    return count * NEW_TOKENS / (prefill_s + NEW_TOKENS * machine.decode(count))


def long_bound_s(machine: Machine, prompt_tokens: int, slowdown: float = 1.7) -> float:
    """The least time to read a long prompt beside `decoding` with the default slowdown."""
    share = (slowdown - 1) / slowdown
    return (machine.pass_s + prompt_tokens * machine.token_s) / share


@dataclass(frozen=True)
class Verdict:
    """One machine: each figure over the bound of it."""

    machine: str
    burst_p50: float
    burst_p99: float
    burst_tokens_per_second: float
    busy_burst_p50: float
    busy_burst_p99: float
    busy_burst_gap_s: float
    """The p99 of a gap of the sequences that decode, in seconds."""
    loop_8_tokens_per_second: float
    loop_32_over_8: float
    """The tokens/s of 32 streams over those of 8."""
    long_500: float
    long_4000: float
    long_gap: float
    """The p99 of a gap while a long prompt is read, over a decode step."""


def judge(machine: Machine) -> Verdict:
    """All scenarios on one machine."""
    idle = simulate(machine, burst(32))
    start_s = decode_start_s(machine)
    busy = simulate(machine, [*decoding(400), *burst(32, at_s=start_s)])
    waited = Outcome([each for each in busy.streams if each.submitted_s > 0], busy.end_s, 0)
    running = Outcome([each for each in busy.streams if not each.submitted_s], busy.end_s, 0)
    eight, many = (simulate(machine, streams(count)).tokens_per_second for count in (8, 32))
    long = {
        tokens: simulate(machine, [*decoding(4000), Arrival(start_s, tokens, 1)])
        for tokens in (500, 4000)
    }
    return Verdict(
        machine.name,
        burst_p50=idle.ttft_s(0.5) / prefill_bound_s(machine, 17),
        burst_p99=idle.ttft_s(0.99) / prefill_bound_s(machine, 32),
        burst_tokens_per_second=idle.tokens_per_second / burst_bound_tokens_per_second(machine, 32),
        busy_burst_p50=waited.ttft_s(0.5) / prefill_bound_s(machine, 17),
        busy_burst_p99=waited.ttft_s(0.99) / prefill_bound_s(machine, 32),
        busy_burst_gap_s=running.gap_s(0.99),
        loop_8_tokens_per_second=eight,
        loop_32_over_8=many / eight,
        long_500=long[500].ttft_s(1, prompt_tokens=500) / long_bound_s(machine, 500),
        long_4000=long[4000].ttft_s(1, prompt_tokens=4000) / long_bound_s(machine, 4000),
        long_gap=long[4000].gap_s(0.99) / machine.decode(STREAMS),
    )


def main() -> None:
    """Prints all verdicts."""
    table = Table(*(name.replace("_", " ") for name in Verdict.__dataclass_fields__))
    for each in MACHINES:
        name, *figures = astuple(judge(each))
        table.add_row(name, *(f"{figure:.2f}" for figure in figures))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()

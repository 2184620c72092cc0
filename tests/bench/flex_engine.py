"""What background sequences cost an arrival inside one engine, in CPU time: others do not count.

    .venv/bin/python -m tests.bench.flex_engine MODEL_DIRECTORY ROUNDS

Prints JSON. It is a process of its own, so that its CPU time is that of the engine.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.samples import percentile
from tests.fakes.engine_rig import STREAM, Rig, SequenceRequest, load_model

REQUESTS = 100
"""Of a round, on each side."""
PROMPT_TOKENS, NEW_TOKENS = 24, 2
BACKGROUND_PROMPT, BACKGROUND_TOKENS = 40, 64
BACKGROUND = 96
"""More than run at once."""
PAUSES_S = (0.01, 0.1)
"""From the end of a request to the arrival of the next one: from, to."""
VOCAB = 200


@dataclass
class Measured:
    """One side of a round; times are CPU times."""

    ttft_s: list[float] = field(default_factory=list[float])
    whole_s: float = 0.0
    """Of all requests, from their arrival to their end."""
    batch_tokens: int = 0
    seconds: float = 0.0
    """Of the whole round."""

    @property
    def p95_s(self) -> float:
        return percentile(sorted(self.ttft_s), 0.95)


class Engine:
    """One step loop; requests arrive while it works in the background, or while it is idle."""

    def __init__(self, model: Path) -> None:
        self._arrival_s = float("inf")
        self._rng = random.Random(1)
        self._numbers = itertools.count(1)
        self._background: set[int] = set()
        self._batch_tokens = 0
        self._rig = Rig(load_model(model), interrupted=self._has_arrived, clock=time.process_time)

    def run(self, requests: int, *, background: bool) -> Measured:
        """One side of a round."""
        measured = Measured()
        if background:
            self._fill()
            self._work(1.0)
        before, began_s = self._batch_tokens, time.process_time()
        for _ in range(requests):
            self._ask(measured, background=background)
        measured.seconds = time.process_time() - began_s
        measured.batch_tokens = self._batch_tokens - before
        self._empty()
        return measured

    def alone(self, seconds: float) -> Measured:
        """Only the background."""
        self._fill()
        self._work(1.0)
        before, began_s = self._batch_tokens, time.process_time()
        self._work(seconds)
        measured = Measured(seconds=time.process_time() - began_s)
        measured.batch_tokens = self._batch_tokens - before
        self._empty()
        return measured

    def _ask(self, measured: Measured, *, background: bool) -> None:
        self._arrival_s = time.process_time() + self._rng.uniform(*PAUSES_S)
        while background and not self._has_arrived():
            self._step()
        began_s = self._arrival_s if background else time.process_time()
        self._arrival_s = float("inf")
        number = self._submit(PROMPT_TOKENS, NEW_TOKENS)
        first_s = 0.0
        while self._tokens(number) < NEW_TOKENS:
            self._step()
            if not first_s and self._tokens(number):
                first_s = time.process_time()
        measured.ttft_s.append(first_s - began_s)
        measured.whole_s += time.process_time() - began_s

    def _has_arrived(self) -> bool:
        return time.process_time() >= self._arrival_s

    def _work(self, seconds: float) -> None:
        end_s = time.process_time() + seconds
        while time.process_time() < end_s:
            self._step()

    def _step(self) -> None:
        for update in self._rig.step().get(STREAM, ()):
            if update.sequence_id in self._background:
                self._batch_tokens += len(update.token_ids)
        if self._background:
            self._fill()

    def _fill(self) -> None:
        ended = [number for number in self._background if self._has_ended(number)]
        self._background.difference_update(ended)
        while len(self._background) < BACKGROUND:
            number = self._submit(BACKGROUND_PROMPT, BACKGROUND_TOKENS, background=True)
            self._background.add(number)

    def _empty(self) -> None:
        for number in self._background:
            self._rig.loop.cancel((STREAM, number))
        self._background.clear()
        self._rig.run()

    def _submit(self, prompt: int, new_tokens: int, *, background: bool = False) -> int:
        number = next(self._numbers)
        tokens = tuple(self._rng.randrange(3, VOCAB) for _ in range(prompt))
        key = (STREAM, number)
        self._rig.submit(SequenceRequest(key, tokens, new_tokens, background=background))
        return number

    def _has_ended(self, number: int) -> bool:
        updates = self._rig.updates.get(number)
        return bool(updates) and updates[-1].finish_reason is not None

    def _tokens(self, number: int) -> int:
        return sum(len(update.token_ids) for update in self._rig.updates.get(number, ()))


def ratios(model: Path, rounds: int) -> dict[str, float]:
    """Medians of the rounds' own ratios: with a batch over none."""
    engine = Engine(model)
    engine.run(REQUESTS // 2, background=True)
    ttft: list[float] = []
    left: list[float] = []
    for _ in range(rounds):
        none, beside = (engine.run(REQUESTS, background=each) for each in (False, True))
        full = engine.alone(beside.seconds / 2)
        ttft.append(beside.p95_s / none.p95_s)
        left_s = beside.seconds - none.whole_s
        left.append(beside.batch_tokens / left_s / (full.batch_tokens / full.seconds))
    return {"ttft_p95": statistics.median(ttft), "of_what_is_left": statistics.median(left)}


def measured(model: Path, rounds: int) -> dict[str, float]:
    """What `ratios` says, by a process of its own."""
    line = [sys.executable, "-m", "tests.bench.flex_engine", str(model), str(rounds)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(ratios(Path(sys.argv[1]), int(sys.argv[2]))))

"""Speculation on beside off, in process: text that is copied at one stream, plain text at more.

The n-gram look-up and a draft model (pocket-mini) on pocket, and the look-up on SmolLM2-135M.
Prints tokens/s as medians of interleaved rounds, and the median of the rounds' ratios. The outputs
of both sides must be equal. Run: .venv/bin/python -m tests.bench.bench_speculation [--rounds 5]
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()

from tokenizers import Tokenizer  # noqa: E402 - only after the BLAS

from mlxmesh_engine.forward.draft import DraftModel, DraftSpeculation  # noqa: E402
from mlxmesh_engine.forward.loader import LoadedModel  # noqa: E402
from mlxmesh_engine.scheduling.request import Sampling, SequenceRequest  # noqa: E402
from mlxmesh_engine.speculation.speculation import NgramSpeculation, Speculation  # noqa: E402
from tests.bench.results import Findings, Result, Row, run_alone  # noqa: E402
from tests.bench.serving import write_smollm2  # noqa: E402
from tests.fakes.engine_rig import Rig, load_model  # noqa: E402

MODELS = Path(__file__).parents[2] / "deploy" / "demo-model"
STREAMS = (1, 8, 32)
MIN_COPY_RATIO = 1.5
MIN_PLAIN_RATIO = 0.97
STORIES = (
    "Once upon a time there was a little",
    "The dog saw a big red ball and",
    "Tom and Lily went to the park to",
    "One day a small bird wanted to",
)
COPIED = (
    "<|im_start|>user\nRepeat the following text exactly, word for word:\n\n"
    "The city council met on Tuesday evening to discuss the new park. Mrs. Alvarez said the trees "
    "on Maple Street should stay. Mr. Chen wanted a longer path for bicycles. The council will "
    "vote on the plan next month, and the work may begin in spring."
    "<|im_end|>\n<|im_start|>assistant\n"
)

MakeSpeculation = Callable[[LoadedModel], Speculation]


@dataclass(frozen=True)
class Load:
    """What is generated at once."""

    name: str
    prompts: Sequence[Sequence[int]]
    new_tokens: int
    temperature: float = 1.0
    min_ratio: float = MIN_PLAIN_RATIO

    def requests(self, seed: int) -> list[SequenceRequest]:
        return [
            SequenceRequest(
                (1, number),
                tuple(prompt),
                self.new_tokens,
                sampling=Sampling(temperature=self.temperature, seed=seed * 1000 + number),
            )
            for number, prompt in enumerate(self.prompts, start=1)
        ]


def plain_text(tokenizer: Tokenizer, streams: int, new_tokens: int) -> Load:
    """Stories, each with another beginning."""
    prompts = [
        tokenizer.encode(f"{number}. {STORIES[number % len(STORIES)]}").ids
        for number in range(streams)
    ]
    return Load(f"plain text, {streams} streams", prompts, new_tokens)


def copied_text(tokenizer: Tokenizer) -> Load:
    """A text that the model repeats."""
    prompt = tokenizer.encode(COPIED).ids
    return Load("copied text, 1 stream", [prompt], 96, temperature=0.0, min_ratio=MIN_COPY_RATIO)


def timed(rig: Rig, requests: Sequence[SequenceRequest]) -> tuple[list[list[int]], float]:
    """The tokens of each request, and tokens/s from the first to the last."""
    started_s = time.perf_counter()
    rig.updates.clear()
    rig.submit(*requests).run()
    seconds = time.perf_counter() - started_s
    tokens = [rig.tokens(request.key[1]) for request in requests]
    return tokens, sum(map(len, tokens)) / seconds


def compare(loaded: LoadedModel, load: Load, make: MakeSpeculation, rounds: int) -> Row:
    """One load with speculation and without; both engines live through all rounds."""
    plain = Rig(loaded, clock=time.monotonic)
    speculating = Rig(loaded, speculation=make(loaded), clock=time.monotonic)
    ratios: list[float] = []
    rates: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        requests = load.requests(number)
        sides = [plain, speculating] if number % 2 else [speculating, plain]
        results = {side: timed(side, requests) for side in sides}
        (expected, off), (tokens, on) = results[plain], results[speculating]
        if tokens != expected:
            raise SystemExit(f"{load.name}: the outputs differ")
        if number:
            ratios.append(on / off)
            rates.append((off, on))
    loop = speculating.loop
    return {
        "load": load.name,
        "off tokens/s": statistics.median(off for off, _ in rates),
        "on tokens/s": statistics.median(on for _, on in rates),
        "ratio": statistics.median(ratios),
        "accepted/proposed": f"{loop.accepted_tokens}/{loop.proposed_tokens}",
    }


def tokenizer_of(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def ngrams(_: LoadedModel) -> Speculation:
    return NgramSpeculation()


def drafts(_: LoadedModel) -> Speculation:
    mini = load_model(MODELS / "pocket-mini")
    return DraftSpeculation(DraftModel(mini.model, mini.batching, mini.context_tokens))


def measure(rounds: int) -> Findings:
    """All loads on pocket, then on SmolLM2."""
    tables: dict[str, list[Row]] = {}
    results: list[Result] = []

    def run(title: str, loaded: LoadedModel, loads: Sequence[Load], make: MakeSpeculation) -> None:
        tables[f"{title}, on beside off"] = rows = [
            compare(loaded, load, make, rounds) for load in loads
        ]
        for load, row in zip(loads, rows, strict=True):
            results.append(Result(f"{title}, {load.name}", float(row["ratio"]), load.min_ratio))

    pocket, tokenizer = load_model(MODELS / "pocket"), tokenizer_of(MODELS / "pocket")
    stories = [plain_text(tokenizer, streams, 160) for streams in STREAMS]
    run("pocket, n-gram", pocket, stories, ngrams)
    run("pocket, drafts of pocket-mini", pocket, stories, drafts)
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder:
        path = Path(folder) / "smollm2"
        write_smollm2(path)
        tokenizer = tokenizer_of(path)
        loads = [
            copied_text(tokenizer),
            *(plain_text(tokenizer, streams, 32) for streams in (1, 8)),
        ]
        run("SmolLM2-135M, n-gram", load_model(path), loads, ngrams)
    return Findings(results, tables)


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=5)

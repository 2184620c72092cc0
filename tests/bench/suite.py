"""Every benchmark of the mesh by the target that it answers, and what all of them found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from tests.bench.results import Findings, Row, judged


@dataclass(frozen=True)
class Part:
    """One benchmark; the module runs alone too."""

    target: int
    title: str
    module: str


PARTS = (
    Part(1, "through the gateway, beside MLX in process", "bench_mesh"),
    Part(1, "the engine's step loop, beside BatchGenerator", "bench_engine"),
    Part(1, "the forward pass for CPUs, by part", "bench_forward"),
    Part(1, "products by layout and format of the weights", "bench_products"),
    Part(3, "32 different samplers, through the gateway", "bench_samplers"),
    Part(3, "samplers, by size of the vocabulary", "bench_sampling"),
    Part(4, "prefix cache, one replica and two", "bench_prefix"),
    Part(5, "running streams while long prompts are read", "bench_prefill_stall"),
    Part(6, "capacity of the mesh, with a simulated engine", "bench_capacity"),
    Part(7, "from 1 to 256 streams, and long prompts", "bench_streams"),
    Part(8, "quantized weights", "bench_quantized"),
    Part(9, "start-up", "bench_startup"),
    Part(10, "telemetry on, beside off", "bench_telemetry"),
    Part(11, "idle", "bench_idle"),
    Part(12, "OpenAI's API beside gRPC", "bench_http"),
    Part(13, "quotas and shares of API keys", "bench_quotas"),
    Part(14, "constraints: masks, and 32 schemas", "bench_constraints"),
    Part(15, "experiments: false positives, and what is found", "bench_experiments"),
    Part(16, "shadowing, beside none", "bench_shadow"),
    Part(17, "50 models on demand, with room for five", "bench_on_demand"),
    Part(18, "the jobs database", "bench_jobs"),
    Part(19, "jobs with real processes, from submission to end", "bench_jobs_end_to_end"),
    Part(20, "a batch of flex requests beside interactive ones", "bench_flex"),
    Part(21, "the console with a large mesh", "bench_console"),
    Part(22, "32 rows with 32 adapters, beside one", "bench_adapters"),
    Part(23, "embeddings: batches beside one by one", "bench_embeddings"),
    Part(24, "speculation on, beside off", "bench_speculation"),
    Part(25, "prefixes on disk, after a restart", "bench_prefix_disk"),
    Part(26, "keys and values with fewer bits, beside full ones", "bench_kv_quality"),
    Part(27, "memory over many requests, and after unloading", "bench_leaks"),
)
"""Target 2 is the comparison with other servers, which `make bench-peers` runs."""


@dataclass(frozen=True)
class Outcome:
    """What one part found, or why it found nothing."""

    part: Part
    seconds: float
    findings: Findings | None = None
    failure: str = ""


@dataclass(frozen=True)
class Suite:
    """One run of several parts."""

    machine: str
    outcomes: Sequence[Outcome]

    @property
    def failed(self) -> bool:
        """Whether a part found nothing; a target that is missed is no failure."""
        return any(outcome.failure for outcome in self.outcomes)

    def table(self, module: str, title: str) -> Sequence[Row]:
        """The rows of one table; empty where its part found nothing."""
        for outcome in self.outcomes:
            if outcome.part.module == module and outcome.findings is not None:
                return outcome.findings.tables.get(title, ())
        return ()

    def summary(self) -> list[Row]:
        """One row a result, and one for each part that failed."""
        rows: list[Row] = []
        for outcome in self.outcomes:
            target: Row = {"target": str(outcome.part.target)}
            if outcome.findings is None:
                rows.append({**target, **_failed(outcome)})
            else:
                rows += [{**target, **row} for row in judged(outcome.findings.results)]
        return rows

    def to_json(self) -> str:
        """The whole of it as text."""
        return _SUITE.dump_json(self, indent=2).decode()

    @staticmethod
    def from_file(path: Path) -> Suite:
        """What `to_json` wrote; raises ValueError for anything else."""
        return _SUITE.validate_json(path.read_bytes())


_SUITE = TypeAdapter(Suite)


def _failed(outcome: Outcome) -> Row:
    return {
        "result": f"{outcome.part.module}: {outcome.failure}",
        "measured": "-",
        "wanted": "-",
        "unit": "-",
        "verdict": "FAILED",
    }


def parts_for(only: str) -> list[Part]:
    """The parts of the targets in a list such as "1,4"; all when it is empty.

    Raises ValueError for a target that no part answers.
    """
    if not only:
        return list(PARTS)
    known = {str(part.target) for part in PARTS}
    asked = {word.strip() for word in only.split(",")}
    if unknown := asked - known:
        raise ValueError(
            f"no part answers {min(unknown)!r}; there are {', '.join(sorted(known, key=int))}"
        )
    return [part for part in PARTS if str(part.target) in asked]

"""Figures of one run: medians over its rounds, and the mesh against each, taken round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from tests.bench.results import Result, median_of
from tests.bench.samples import Sample, percentile


@dataclass(frozen=True)
class Measured:
    """All samples of one server, by number of streams, in the order of the rounds."""

    name: str
    variant: str
    samples: Mapping[int, Sequence[Sample]]
    failure: str = ""
    """Why it was not measured, or not in every round."""


@dataclass(frozen=True)
class Figures:
    """One server at one number of streams."""

    tokens_per_second: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    mesh_speed: float
    """Tokens/s of the mesh over its own: more is better for the mesh."""
    mesh_ttft_p99: float
    """TTFT p99 of the mesh over its own: less is better for the mesh."""


def figures(own: Sequence[Sample], mesh: Sequence[Sample]) -> Figures | None:
    """The figures from the samples of the same rounds; None where there is none."""
    pairs = list(zip(own, mesh, strict=False))
    if not pairs:
        return None
    return Figures(
        tokens_per_second=median_of(own, lambda each: each.tokens_per_second),
        ttft_p50_ms=1000 * median_of(own, lambda each: percentile(each.ttft_s, 0.5)),
        ttft_p99_ms=1000 * median_of(own, lambda each: percentile(each.ttft_s, 0.99)),
        mesh_speed=statistics.median(m.tokens_per_second / o.tokens_per_second for o, m in pairs),
        mesh_ttft_p99=statistics.median(
            percentile(m.ttft_s, 0.99) / percentile(o.ttft_s, 0.99) for o, m in pairs
        ),
    )


Rows = list[tuple[Measured, dict[int, Figures]]]


def rows(servers: Sequence[Measured], mesh: Measured) -> Rows:
    """Each server with its figures by number of streams."""
    return [
        (server, {n: found for n in server.samples if (found := _at(server, mesh, n))})
        for server in servers
    ]


def _at(server: Measured, mesh: Measured, streams: int) -> Figures | None:
    return figures(server.samples[streams], mesh.samples.get(streams, ()))


def verdicts(found: Rows, peers: Mapping[str, float], *, streams: int) -> list[Result]:
    """The mesh against the best peer of each variant in `peers`, which gives the speed to reach.

    The best is the fastest for speed, and the one with the lowest p99 of all for time to first
    token. A variant that no peer was measured in gets no verdict.
    """
    results: list[Result] = []
    everyone: list[tuple[str, Figures]] = []
    for variant, target in peers.items():
        here = [(s.name, f[streams]) for s, f in found if s.variant == variant and streams in f]
        everyone += [(f"{name}, {variant}", each) for name, each in here]
        if here:
            name, best = max(here, key=lambda pair: pair[1].tokens_per_second)
            text = f"tokens/s at {streams} against {name}, {variant}"
            results.append(Result(text, best.mesh_speed, target))
    if everyone:
        name, best = min(everyone, key=lambda pair: pair[1].ttft_p99_ms)
        text = f"TTFT p99 at {streams} against {name}"
        results.append(Result(text, best.mesh_ttft_p99, 0.5, at_least=False))
    return results


def table(found: Rows, streams: Sequence[int]) -> Table:
    """The table for people."""
    most = max(streams)
    drawn = Table(box=None)
    for title in ("server", "variant"):
        drawn.add_column(title)
    titles = [f"tok/s {n}" for n in streams]
    titles += [f"TTFT p50 {most}", f"p99 {most}", *(f"mesh x {n}" for n in streams), "mesh p99 x"]
    for title in titles:
        drawn.add_column(title, justify="right")
    for server, by_streams in found:
        each, last = [by_streams.get(n) for n in streams], by_streams.get(most)
        drawn.add_row(
            server.name,
            server.variant,
            *(_cell(figures, lambda f: f"{f.tokens_per_second:,.0f}") for figures in each),
            _cell(last, lambda f: f"{f.ttft_p50_ms:,.0f} ms"),
            _cell(last, lambda f: f"{f.ttft_p99_ms:,.0f} ms"),
            *(_cell(figures, lambda f: f"{f.mesh_speed:.2f}") for figures in each),
            _cell(last, lambda f: f"{f.mesh_ttft_p99:.2f}"),
        )
    return drawn


def _cell(found: Figures | None, show: Callable[[Figures], str]) -> str:
    return "-" if found is None else show(found)


def document(found: Rows, judged: Sequence[Result], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything for machines: the figures, and the samples that they come from."""
    return {
        **about,
        "servers": [
            {
                "name": server.name,
                "variant": server.variant,
                "failure": server.failure,
                "figures": {str(n): asdict(each) for n, each in by_streams.items()},
                "samples": {
                    str(n): [asdict(s) for s in all_] for n, all_ in server.samples.items()
                },
            }
            for server, by_streams in found
        ],
        "targets": [{**asdict(result), "met": result.met} for result in judged],
    }

"""Which curves a picture of benchmarks has, from the results that were written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench import bench_mesh, bench_streams
from tests.bench.load import CLIENT
from tests.bench.results import Row
from tests.bench.serving import MESH
from tests.bench.suite import Suite

SPEED, TTFT = "tokens/s", "time to first token, ms"
STREAMS = "streams"


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One diagram; its x axis is logarithmic unless `log_x` is False, its y axis if `log_y`."""

    title: str
    x: str
    curves: Sequence[Curve]
    log_y: bool = False
    log_x: bool = True


def of_suite(suite: Suite, peers: Mapping[str, Any] | None = None) -> list[Panel]:
    """Speed, time to first token and cost; no panel where a part for them did not run.

    `peers` is what bench_peers wrote; its curves are dashed, as they come from another run.
    """
    beside = suite.table("bench_mesh", bench_mesh.TITLE)
    many = suite.table("bench_streams", bench_streams.BY_STREAMS)
    cost = suite.table("bench_streams", bench_streams.COST_BY_STREAMS)
    by_prompt = suite.table("bench_streams", bench_streams.COST_BY_PROMPT)
    if not (beside and many and cost and by_prompt):
        return []
    others = _peers(peers, skip=("mlxmesh", "BatchGenerator")) if peers else {}
    return [
        Panel(
            SPEED,
            STREAMS,
            [
                _curve("in process", beside, STREAMS, "in process tokens/s"),
                _curve("mesh, by turns with it", beside, STREAMS, "mesh tokens/s"),
                _curve("mesh alone", many, STREAMS, "tokens/s"),
                *others.get(SPEED, ()),
            ],
        ),
        Panel(
            TTFT,
            STREAMS,
            [
                _curve("in process, p50", beside, STREAMS, "in process ttft p50 ms"),
                _curve("mesh, p50", many, STREAMS, "ttft p50 ms"),
                _curve("mesh, p99", many, STREAMS, "ttft p99 ms"),
                *others.get(TTFT, ()),
            ],
            log_y=True,
        ),
        Panel(
            "CPU of a new token, us",
            STREAMS,
            [_curve(name, cost, STREAMS, f"{name} us/new token") for name in (*MESH, CLIENT)],
            log_y=True,
        ),
        Panel(
            "CPU of a token read or new, us",
            "prompt tokens",
            [_curve("all processes", by_prompt, "prompt tokens", "all us/token read or new")],
        ),
    ]


def of_peers(document: Mapping[str, Any]) -> list[Panel]:
    """Speed and time to first token of every server of the comparison."""
    found = _peers(document)
    return [Panel(name, STREAMS, found[name], log_y=name == TTFT) for name in (SPEED, TTFT)]


def _peers(document: Mapping[str, Any], skip: Sequence[str] = ()) -> dict[str, list[Curve]]:
    found: dict[str, list[Curve]] = {SPEED: [], TTFT: []}
    figures = {SPEED: "tokens_per_second", TTFT: "ttft_p50_ms"}
    for server in document["servers"]:
        if server["name"] in skip or not server["figures"]:
            continue
        name = f"{server['name']}, {server['variant']}"
        own = server["name"] == "mlxmesh"
        for panel, figure in figures.items():
            at = sorted((float(n), float(each[figure])) for n, each in server["figures"].items())
            found[panel].append(Curve(name, at, dashed=not own))
    return found


def _curve(name: str, rows: Sequence[Row], x: str, y: str) -> Curve:
    return Curve(name, [(float(row[x]), float(row[y])) for row in rows])

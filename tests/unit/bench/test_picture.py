"""The pictures: drawn from what was written, the same each time, nothing without figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import bench_mesh, bench_streams
from tests.bench.curves import SPEED, TTFT, of_peers, of_suite
from tests.bench.picture import draw_peers, draw_suite
from tests.bench.results import Findings, Row
from tests.bench.samples import Sample
from tests.bench.suite import Outcome, Part, Suite

BESIDE: list[Row] = [
    bench_mesh.row(n, [Sample(90.0 * n, [0.2])], [Sample(100.0 * n, [0.1])]) for n in (1, 8)
]
MANY: list[Row] = [
    {"streams": n, "tokens/s": 80.0 * n, "ttft p50 ms": 10.0 * n, "ttft p99 ms": 20.0 * n}
    for n in (1, 256)
]
PROCESSES = ("gateway", "generation", "engine", "client")
COST: list[Row] = [
    {"streams": n, **{f"{name} us/new token": 100.0 for name in PROCESSES}} for n in (1, 256)
]
BY_PROMPT: list[Row] = [{"prompt tokens": n, "all us/token read or new": 50.0} for n in (64, 8_000)]
SUITE = Suite(
    "here",
    [
        Outcome(Part(1, "", "bench_mesh"), 1, Findings([], {bench_mesh.TITLE: BESIDE})),
        Outcome(
            Part(7, "", "bench_streams"),
            1,
            Findings(
                [],
                {
                    bench_streams.BY_STREAMS: MANY,
                    bench_streams.COST_BY_STREAMS: COST,
                    bench_streams.COST_BY_PROMPT: BY_PROMPT,
                },
            ),
        ),
    ],
)


def _server(name: str, speed: float, **more: Any) -> dict[str, Any]:
    figures = {"tokens_per_second": speed, "ttft_p50_ms": 30.0}
    return {"name": name, "variant": "default", "figures": {"8": figures, "32": figures}, **more}


PEERS = {
    "servers": [
        _server("mlxmesh", 1000.0),
        _server("BatchGenerator", 1200.0),
        _server("other", 500.0),
        {"name": "broken", "variant": "as shipped", "figures": {}},
    ]
}


def test_the_curves_are_the_columns_of_the_tables():
    speed, ttft, cost, by_prompt = of_suite(SUITE)
    assert speed.curves[0].points == [(1, 100), (8, 800)]
    assert speed.curves[2].points == [(1, 80), (256, 20_480)]
    assert ttft.curves[0].points == [(1, 100), (8, 100)]
    assert [curve.name for curve in cost.curves] == list(PROCESSES)
    assert by_prompt.curves[0].points == [(64, 50), (8_000, 50)]


def test_peers_join_dashed_and_without_what_the_run_has_itself():
    speed = of_suite(SUITE, PEERS)[0]
    (other,) = [curve for curve in speed.curves if curve.dashed]
    assert (other.name, other.points) == ("other, default", [(8, 500), (32, 500)])


def test_the_comparison_has_every_server_that_was_measured():
    speed, ttft = of_peers(PEERS)
    assert (speed.title, ttft.title) == (SPEED, TTFT)
    names = [curve.name for curve in speed.curves]
    assert names == ["mlxmesh, default", "BatchGenerator, default", "other, default"]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_same_figures_give_the_same_picture(tmp_path: Path, suffix: str):
    first, second = (tmp_path / "images" / f"{name}.{suffix}" for name in "ab")
    assert draw_suite(SUITE, first)
    assert draw_suite(SUITE, second)
    assert first.read_bytes() == second.read_bytes()


def test_a_picture_names_its_curves(tmp_path: Path):
    (tmp_path / "peers.json").write_text(json.dumps(PEERS))
    assert draw_suite(SUITE, tmp_path / "all.svg", peers=tmp_path / "peers.json")
    text = (tmp_path / "all.svg").read_text()
    assert all(name in text for name in ("in process", "other, default", "generation"))
    assert len(text) < 100_000
    draw_peers(PEERS, tmp_path / "peers.svg")
    assert "mlxmesh, default" in (tmp_path / "peers.svg").read_text()


def test_without_the_parts_for_it_nothing_is_drawn(tmp_path: Path):
    lacking = Suite("here", SUITE.outcomes[:1])
    assert not draw_suite(lacking, tmp_path / "all.svg")
    assert not (tmp_path / "all.svg").exists()

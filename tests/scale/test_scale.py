"""The scale test itself, at a size that takes seconds: it runs to its end, and counts are right."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from tests.fakes.consul_agent import FakeConsulAgent
from tests.fakes.consul_process import if_built
from tests.scale.__main__ import parsed
from tests.scale.growth import FLAT, LINEAR, exponent, judged, panels
from tests.scale.size import Mesh, consul, measure

TINY = Mesh(engines=20, generations=3, gateways=1, changes=2, idle_s=1.0)


@asynccontextmanager
async def fake_agent() -> AsyncIterator[tuple[str, psutil.Process]]:
    agent = FakeConsulAgent()
    await agent.start()
    try:
        yield agent.address, psutil.Process(os.getpid())
    finally:
        await agent.stop()


@pytest.mark.parametrize("agent", ["a fake agent", *if_built("consul")])
async def test_a_tiny_mesh_is_measured_to_its_end(agent: str) -> None:
    async with fake_agent() if "fake" in agent else consul() as (address, process):
        row = await measure(TINY, address, process)

    assert row["lost"] == 2
    # Of fast changes a watch may read several at once.
    assert 0 < float(row["answers/change"]) < 10
    assert float(row["answers to converge"]) > 0
    assert float(row["converged s"]) >= float(row["converged p50 s"]) > 0
    assert float(row["KB/link"]) > 0
    assert {*LINEAR, *FLAT} <= row.keys()
    assert panels([row, {**row, "engines": 40}])


def test_the_exponent_is_that_of_the_figures() -> None:
    rows = [
        {"engines": n, "square": 3.0 * n * n, "root": n**0.5, "none": 0.0} for n in (50, 200, 800)
    ]
    assert exponent(rows, "square") == pytest.approx(2)
    assert exponent(rows, "root") == pytest.approx(0.5)
    assert exponent(rows, "none") == 0


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ((0.0, 4.0, 16.0), 1),
        ((0.0, 0.0, 5.0), float("inf")),
        ((5.0, 0.0, 0.0), 0),
        ((0.0, 5.0, 0.0), 0),
    ],
)
def test_a_figure_that_is_nothing_at_some_sizes(
    figures: tuple[float, ...], expected: float
) -> None:
    rows = [{"engines": n, "rest": each} for n, each in zip((50, 200, 800), figures, strict=True)]
    assert exponent(rows, "rest") == pytest.approx(expected)


def test_what_grows_too_fast_is_a_miss() -> None:
    figures = dict.fromkeys((*LINEAR, *FLAT), 1.0)
    rows = [{"engines": n, **figures, "KB/change": float(n * n)} for n in (50, 200)]
    missed = [one.name for one in judged(rows).results if not one.met]
    assert missed == ["exponent of KB/change"]


@pytest.mark.parametrize(
    "words",
    [
        ["--engines", "10"],
        ["--engines", "200", "50"],
        ["--generations", "2"],
        ["--gateways", "0"],
        ["--changes", "0"],
        ["--idle", "0"],
    ],
)
def test_illegal_sizes_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(words)
    assert "must be" in capsys.readouterr().err or words[:2] == ["--engines", "200"]

"""Draws the curves of the benchmarks from the JSON that they wrote.

    .venv/bin/python -m tests.bench.picture docs/images/benchmarks.svg --json FILE [--peers FILE]

With `--peers` alone, the picture is that of the comparison. The same figures always give the same
file, so that a change of it is a change of figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench import curves
from tests.bench.curves import Panel
from tests.bench.suite import Suite

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "svg.fonttype": "none",  # text stays text: small, searchable
    "svg.hashsalt": "mlxmesh",  # ids inside the file are the same on every run
}
UNDATED = {"Date": None, "Creator": None}
PANEL_INCHES = (4.4, 3.0)
COLUMNS = 2


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Two panels a row; the suffix of the path chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = -(-len(panels) // COLUMNS)
    width, height = PANEL_INCHES
    with rc_context(STYLE):
        figure = Figure(figsize=(width * COLUMNS, height * rows), layout="constrained")
        for number, panel in enumerate(panels, 1):
            _draw_panel(figure.add_subplot(rows, COLUMNS, number), panel)
        figure.savefig(path, dpi=120, metadata=UNDATED if path.suffix == ".svg" else None)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    colours: dict[str, Any] = {}
    for curve in panel.curves:
        xs, ys = zip(*curve.points, strict=True)
        # Curves of one name are parts of one: they share a colour and a line of the legend.
        (line,) = axes.plot(
            *(xs, ys, "--" if curve.dashed else "-"),
            marker="." if panel.log_x else "",
            label=None if curve.name in colours else curve.name,
            color=colours.get(curve.name),
        )
        colours[curve.name] = line.get_color()
    if panel.log_x:
        ticks = sorted({x for curve in panel.curves for x, _ in curve.points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.set_xlabel(panel.x)
    axes.set_title(panel.title, loc="left")
    if panel.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,.0f}")
    else:
        axes.set_ylim(bottom=0)
    # "best" compares every point with every place.
    axes.legend(loc="best" if panel.log_x else "upper left")


def draw_suite(suite: Suite, path: Path, *, peers: Path | None = None) -> bool:
    """The picture of one run; returns False, and draws nothing, where it lacks the parts."""
    beside = json.loads(peers.read_text()) if peers else None
    panels = curves.of_suite(suite, beside)
    if panels:
        draw(panels, path)
    return bool(panels)


def draw_peers(document: Mapping[str, Any], path: Path) -> None:
    """The picture of the comparison with other servers."""
    draw(curves.of_peers(document), path)


def main() -> None:
    """Parse the options and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, help="an .svg or .png file")
    parser.add_argument("--json", type=Path, help="what tests.bench wrote")
    parser.add_argument("--peers", type=Path, help="what bench_peers wrote")
    args = parser.parse_args()
    if args.json:
        if not draw_suite(Suite.from_file(args.json), args.picture, peers=args.peers):
            parser.error(f"{args.json} lacks the figures of targets 1 and 7")
    elif args.peers:
        draw_peers(json.loads(args.peers.read_text()), args.picture)
    else:
        parser.error("give --json, --peers or both")


if __name__ == "__main__":
    main()

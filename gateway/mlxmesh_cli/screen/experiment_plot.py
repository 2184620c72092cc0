"""Draws the differences of an analysis over the number of values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mlxmesh.model.v1 import experiment_pb2 as pb

# matplotlib's own types are not complete.
Figure = Any
Axes = Any

_TITLES = {
    pb.EXPERIMENT_METRIC_TTFT: "time to first token, ms",
    pb.EXPERIMENT_METRIC_TOKENS_PER_SECOND: "tokens per second",
    pb.EXPERIMENT_METRIC_ERROR: "share of errors",
    pb.EXPERIMENT_METRIC_COMPLETION_TOKENS: "generated tokens",
    pb.EXPERIMENT_METRIC_SCHEMA_VALID: "share of valid outputs",
    pb.EXPERIMENT_METRIC_TOOLS_VALID: "share of valid tool calls",
    pb.EXPERIMENT_METRIC_COST: "cost",
    pb.EXPERIMENT_METRIC_SCORE: "score",
}
# Okabe and Ito's, which people with any colour vision can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_WIDTH, _HEIGHT = 8.0, 2.6
"""Of one metric, in inches."""
_BEGINNING = 5
"""The last point has so many times the values of the first one that the range includes."""


def draw(analysis: pb.AnalyzeExperimentResponse, path: Path) -> None:
    """Writes a file with a panel for each metric that has a finite interval."""
    figure(analysis).savefig(path)


def figure(analysis: pb.AnalyzeExperimentResponse) -> Figure:
    """A panel for each metric: the difference from the first arm, with its band."""
    # Not at the top: only plots need it. Not pyplot, which keeps global state and opens windows.
    from matplotlib.figure import Figure as MatplotlibFigure

    metrics = [metric for metric in analysis.metrics if any(map(_points, metric.arms))]
    rows = max(1, len(metrics))
    drawn: Any = MatplotlibFigure(figsize=(_WIDTH, _HEIGHT * rows + 0.8), layout="constrained")
    panels = drawn.subplots(rows, 1, squeeze=False)[:, 0]
    for panel, metric in zip(panels, metrics, strict=False):
        _draw_metric(panel, metric, analysis)
    if not metrics:
        panels[0].text(0.5, 0.5, "no arm has enough values yet", ha="center", va="center")
        panels[0].set_axis_off()
    else:
        panels[len(metrics) - 1].set_xlabel("values of the arm")
    found = analysis.experiment
    drawn.suptitle(
        f"{found.experiment_id}: {found.model}:{found.alias},"
        f" {1 - analysis.alpha:.4g} confidence at all times and in all metrics together"
    )
    return drawn


def _draw_metric(
    panel: Axes, metric: pb.MetricAnalysis, analysis: pb.AnalyzeExperimentResponse
) -> None:
    control = analysis.experiment.arms[0].arm
    panel.axhline(0, color="#666666", linewidth=0.8, linestyle="--")
    for at, arm in enumerate(metric.arms):
        points = _points(arm)
        if not points:
            continue
        colour = _COLOURS[(at - 1) % len(_COLOURS)]
        values = [number for number, _ in points]
        panel.fill_between(
            values,
            [estimate.lower for _, estimate in points],
            [estimate.upper for _, estimate in points],
            color=colour,
            alpha=0.2,
            linewidth=0.8,
        )
        panel.plot(
            values,
            [estimate.mean for _, estimate in points],
            color=colour,
            label=arm.arm,
            marker="o" if len(points) == 1 else None,
        )
    panel.set_title(
        f"{_TITLES.get(metric.metric, 'metric')}: difference from {control}", fontsize=10
    )
    low, high = _limits(metric)
    panel.set_ylim(low, high)
    panel.legend(loc="upper right", fontsize=8)
    panel.grid(visible=True, linewidth=0.3)


def _limits(metric: pb.MetricAnalysis) -> tuple[float, float]:
    """The range of what is drawn without its wide beginning, which would hide the rest."""
    shown = [0.0]
    for arm in metric.arms:
        points = _points(arm)
        for values, estimate in points:
            if values * _BEGINNING >= points[-1][0]:
                shown += [estimate.lower, estimate.upper]
    margin = 0.1 * (max(shown) - min(shown)) or 1.0
    return min(shown) - margin, max(shown) + margin


def _points(arm: pb.ArmAnalysis) -> list[tuple[int, pb.Estimate]]:
    """The finite intervals so far, the present one last."""
    points = [(point.values, point.estimate) for point in arm.course]
    if arm.HasField("difference") and (not points or points[-1][0] < arm.values):
        points.append((arm.values, arm.difference))
    return [(values, estimate) for values, estimate in points if math.isfinite(estimate.upper)]

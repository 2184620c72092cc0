"""What an analysis says, in plain words. Pure."""

from collections.abc import Sequence
from math import isfinite

from mlxmesh_model.experiments.analysis import ArmResult, MetricResult
from mlxmesh_model.experiments.metrics import Metric
from mlxmesh_model.experiments.sequences import MIN_SUBJECTS, Interval

_NAMES = {
    Metric.TTFT: "time to first token",
    Metric.TOKENS_PER_SECOND: "tokens per second",
    Metric.ERROR: "errors",
    Metric.COMPLETION_TOKENS: "generated tokens",
    Metric.SCHEMA_VALID: "outputs that satisfy their schema",
    Metric.TOOLS_VALID: "tool calls that parse",
    Metric.COST: "cost",
    Metric.SCORE: "score",
}
_UNITS = {Metric.TTFT: " ms"}


def of_metric(result: MetricResult) -> str:
    """What one metric says, a sentence for each arm that is compared."""
    control = result.arms[0] if result.arms else None
    compared = [arm for arm in result.arms if arm.difference is not None]
    if control is None or not compared:
        return f"{_capital(_NAMES[result.metric])}: there are no two arms with values yet."
    said = [_arm_words(result.metric, arm, control) for arm in compared]
    return f"{_capital(_NAMES[result.metric])}: {'; '.join(said)}."


def of_all(
    results: Sequence[MetricResult], *, requests: int, sample_ratio_p_value: float, alpha: float
) -> str:
    """What the metrics say together."""
    if requests == 0:
        return "No request has been recorded yet."
    if sample_ratio_p_value < alpha:
        return (
            "Do not trust these figures: the numbers of subjects of the arms do not fit their"
            f" weights (p = {sample_ratio_p_value:.2g}). Find out why before you decide anything."
        )
    shown = [(arm, result.metric) for result in results for arm in result.arms if arm.significant]
    if not shown:
        return "No difference is shown so far. Continue, or stop; looking again does no harm."
    names = dict.fromkeys(arm.arm for arm, _ in shown)
    return " ".join(
        _together(name, [(arm, metric) for arm, metric in shown if arm.arm == name])
        for name in names
    )


def _together(name: str, shown: Sequence[tuple[ArmResult, Metric]]) -> str:
    groups: dict[str, list[str]] = {}
    for arm, metric in shown:
        groups.setdefault(_judgement(metric, arm), []).append(_NAMES[metric])
    said = [f"{judged} by {_listed(names)}" for judged, names in groups.items()]
    return f"{name} is {' and '.join(said)}; no other difference is shown."


def _judgement(metric: Metric, arm: ArmResult) -> str:
    sign = 1 if arm.difference is not None and arm.difference.mean > 0 else -1
    return {1: "better", -1: "worse", 0: "different"}[sign * metric.better]


def _arm_words(metric: Metric, arm: ArmResult, control: ArmResult) -> str:
    difference = arm.difference or arm.mean
    means = f"{arm.arm} {_number(metric, arm.mean.mean)}, "
    first = f"{control.arm} {_number(metric, control.mean.mean)}"
    if not isfinite(difference.upper):
        fewer = min((arm, control), key=lambda each: each.subjects)
        return (
            f"{means}{first}; {fewer.arm} has {fewer.subjects} of the {MIN_SUBJECTS} subjects that"
            " a comparison needs"
        )
    between = f"the difference is between {_range(metric, difference, control.mean.mean)}"
    if not arm.significant:
        return f"{means}{first}; no difference is shown, {between}"
    side = "more" if difference.mean > 0 else "less"
    return f"{means}{first}; {side} than {control.arm}, {between}"


def _range(metric: Metric, difference: Interval, base: float) -> str:
    """Both ends: of shares in percentage points, else in percent of the first arm's mean."""
    if metric.is_share:
        return f"{difference.lower * 100:+.2g} and {difference.upper * 100:+.2g} percentage points"
    if base > 0:
        return f"{difference.lower / base:+.1%} and {difference.upper / base:+.1%}"
    return f"{difference.lower:+.4g} and {difference.upper:+.4g}"


def _number(metric: Metric, value: float) -> str:
    if metric.is_share:
        return f"{value:.2%}"
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return shown + _UNITS.get(metric, "")


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]

"""Guards of rollouts as text, such as `error_rate<1%` or `ttft_p95<1.2x`. Pure."""

import re

from mlxmesh.model.v1 import rollout_pb2 as pb
from mlxmesh_shared.errors import InvalidArgument

METRICS = {
    "error_rate": pb.GUARD_METRIC_ERROR_RATE,
    "ttft_p50": pb.GUARD_METRIC_TTFT_P50,
    "ttft_p95": pb.GUARD_METRIC_TTFT_P95,
    "ttft_p99": pb.GUARD_METRIC_TTFT_P99,
    "tpot_p50": pb.GUARD_METRIC_TPOT_P50,
    "tpot_p95": pb.GUARD_METRIC_TPOT_P95,
    "tokens_per_request": pb.GUARD_METRIC_TOKENS_PER_REQUEST,
    "invalid_rate": pb.GUARD_METRIC_INVALID_RATE,
}
_NAMES = {number: name for name, number in METRICS.items()}
_RATES = ("error_rate", "invalid_rate")
_UNITS_MS = {"ms": 1.0, "s": 1000.0}
_GUARD = re.compile(
    r"\s*(?P<metric>[\w-]+)\s*(?P<sign>[<>])\s*(?P<bound>\d+(\.\d*)?|\.\d+)\s*(?P<unit>%|x|ms|s)?\s*"
)
FORMS = "error_rate<1%, ttft_p95<300ms or ttft_p95<1.2x (1.2 times the present version's)"


def parse_guard(text: str) -> pb.Guard:
    """The guard that a text means. Raises: InvalidArgument, which says what is wrong with it."""
    found = _GUARD.fullmatch(text)
    if found is None:
        raise _wrong(text, f"write METRIC<BOUND or METRIC>BOUND, such as {FORMS}")
    name, unit = found["metric"], found["unit"] or ""
    if name not in METRICS:
        raise _wrong(text, f"{name} is no metric; there are {', '.join(METRICS)}")
    bound = float(found["bound"])
    if unit != "x":
        bound *= _factor(text, name, unit)
    if name in _RATES and unit != "x" and bound >= 1:
        raise _wrong(text, f"{bound:g} is {bound * 100:g}% of requests; write 1% or 0.01 for one")
    return pb.Guard(
        metric=METRICS[name], above=found["sign"] == ">", bound=bound, relative=unit == "x"
    )


def guard_text(guard: pb.Guard) -> str:
    """The text that means a guard."""
    name = _NAMES.get(guard.metric, "unknown")
    sign = ">" if guard.above else "<"
    if guard.relative:
        return f"{name}{sign}{guard.bound:g}x"
    return f"{name}{sign}{value_text(guard, guard.bound)}"


def value_text(guard: pb.Guard, value: float) -> str:
    """A value of what a guard measures, with its unit."""
    name = _NAMES.get(guard.metric, "unknown")
    if name in _RATES:
        return f"{value * 100:.4g}%"
    unit = "" if name == "tokens_per_request" else "ms"
    return f"{value:.4g}{unit}" if value < 10_000 else f"{value:.0f}{unit}"


def _factor(text: str, name: str, unit: str) -> float:
    """What a bound is multiplied by. Raises: InvalidArgument for another metric's unit."""
    if name in _RATES:
        if unit in ("", "%"):
            return 0.01 if unit else 1.0
        raise _wrong(text, f"{name} is a rate: give a percentage, as in {name}<1%, or a factor")
    if name == "tokens_per_request":
        if not unit:
            return 1.0
        raise _wrong(text, f"{name} has no unit: give a number, as in {name}>10, or a factor")
    if unit in _UNITS_MS:
        return _UNITS_MS[unit]
    raise _wrong(text, f"{name} is a time: give ms or s, as in {name}<300ms, or a factor")


def _wrong(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"guard {text!r}: {why}", field="guards")

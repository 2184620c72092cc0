"""Converts rows of shadows to domain objects, and domain objects to what is stored."""

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple

from mlxmesh_model.catalogue.rows import to_moment
from mlxmesh_model.shadows.shadow import DropReason, Pair, Plan, Run
from mlxmesh_model.shadows.tally import Metric, Paired, Tally
from mlxmesh_shared.sql.database import Row, Value

RUN_COLUMNS = (
    "shadow_id",
    "number",
    "model",
    "from_version",
    "to_version",
    "percent",
    "created_at",
)
PAIR_COLUMNS = (
    "shadow_id",
    "number",
    "request_id",
    "from_version",
    "compared_at",
    "equal",
    "first_difference",
    "edit_distance",
    "primary_tokens",
    "shadow_tokens",
    "primary_ttft_ms",
    "shadow_ttft_ms",
    "primary_tokens_per_second",
    "shadow_tokens_per_second",
)


def run_values(run: Run) -> Sequence[Value]:
    """The values of RUN_COLUMNS."""
    plan = run.plan
    return (
        run.shadow_id,
        run.number,
        plan.model,
        plan.from_version,
        plan.to_version,
        plan.percent,
        run.created_at,
    )


def to_run(row: Row) -> Run:
    """A shadow from its row."""
    return Run(
        row["shadow_id"],
        Plan(row["model"], row["to_version"], row["from_version"], row["percent"]),
        to_moment(row["created_at"]),
        row["number"],
        None if row["ended_at"] is None else to_moment(row["ended_at"]),
    )


def pair_values(shadow_id: str, number: int, pair: Pair) -> Sequence[Value]:
    """The values of PAIR_COLUMNS."""
    return shadow_id, number, *astuple(pair)


def to_pair(row: Row) -> Pair:
    """A pair from its row."""
    names = PAIR_COLUMNS[2:]
    fields = {name: row[name] for name in names if name not in ("compared_at", "equal")}
    return Pair(**fields, time=to_moment(row["compared_at"]), equal=bool(row["equal"]))


def tally_text(tally: Tally) -> str:
    """A tally as it is stored: JSON."""
    return json.dumps(asdict(tally))


def to_tally(text: str) -> Tally:
    """A tally from its stored form."""
    stored = json.loads(text)
    drops = {DropReason(reason): count for reason, count in stored.pop("drops").items()}
    paired = {Metric(metric): Paired(**sums) for metric, sums in stored.pop("paired").items()}
    return Tally(**stored, drops=drops, paired=paired)

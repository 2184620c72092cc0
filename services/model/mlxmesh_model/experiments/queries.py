"""SQL statements of experiments, for both databases; each runs in its caller's transaction."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from mlxmesh_model.catalogue.rows import to_moment
from mlxmesh_model.experiments import rows
from mlxmesh_model.experiments.analysis import Point
from mlxmesh_model.experiments.experiment import Experiment, State
from mlxmesh_model.experiments.metrics import Metric
from mlxmesh_model.experiments.tally import Clusters, Record, Tally
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.sql.database import Row, Session, Value
from mlxmesh_shared.sql.statements import upsert, value_rows

_PUT = upsert("experiments", rows.EXPERIMENT_COLUMNS, ("experiment_id",))
_PUT_METRIC = upsert(
    "experiment_metrics", ("experiment_id", "metric", "content"), ("experiment_id", "metric")
)
_PUT_POINT = upsert(
    "experiment_courses",
    ("experiment_id", "metric", "position", "content"),
    ("experiment_id", "metric", "position"),
)
_SUBJECT_COLUMNS = ("experiment_id", "subject", "content", "seen_at")
_REQUEST_COLUMNS = (
    "principal",
    "request_id",
    "experiment_id",
    "arm",
    "subject",
    "score",
    "ended_at",
)
# Below the number of values that a statement may have.
_ROWS = 500
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class ScorableRequest:
    """A generation of an experiment that ended, whose caller may report a score once."""

    principal: str
    request_id: str
    experiment_id: str
    arm: str
    subject: str
    ended_at: datetime
    score: float | None = None


# Experiments.


async def find(session: Session, experiment_id: str) -> Experiment | None:
    """An experiment by its id."""
    select = "SELECT * FROM experiments WHERE experiment_id = $1"
    found = await session.fetch(select, experiment_id)
    return rows.to_experiment(found[0]) if found else None


async def read_page(session: Session, *, model: str, before: int, limit: int) -> list[Experiment]:
    """The newest experiments whose number is below `before`; of every model for an empty name."""
    of_model = " AND model = $3" if model else ""
    select = f"SELECT * FROM experiments WHERE number < $1{of_model}"  # noqa: S608
    values = (before, limit, model) if model else (before, limit)
    found = await session.fetch(f"{select} ORDER BY number DESC LIMIT $2", *values)
    return [rows.to_experiment(row) for row in found]


async def read_in_state(session: Session, state: State) -> list[Experiment]:
    """The experiments in a state, oldest first."""
    select = "SELECT * FROM experiments WHERE state = $1 ORDER BY number"
    return [rows.to_experiment(row) for row in await session.fetch(select, state.value)]


async def check_unclaimed(session: Session, model: str, alias: str) -> None:
    """Raises: IllegalState while an experiment waits for its versions to split an alias."""
    for waiting in await read_in_state(session, State.PREPARING):
        if (waiting.plan.model, waiting.plan.alias) == (model, alias):
            raise IllegalState(
                f"experiment {waiting.experiment_id} is about to split {model}:{alias};"
                " end it first"
            )


async def next_number(session: Session) -> int:
    """The number of a new experiment."""
    [row] = await session.fetch("SELECT COALESCE(MAX(number), 0) + 1 AS number FROM experiments")
    return row["number"]


async def put(session: Session, experiment: Experiment) -> None:
    """Stores an experiment, but not its end."""
    await session.fetch(_PUT, *rows.experiment_values(experiment))


async def end(session: Session, experiment: Experiment, *, now: datetime, reason: str) -> None:
    """Marks an experiment as stopped."""
    await session.fetch(
        "UPDATE experiments SET state = $2, ended_at = $3, reason = $4 WHERE experiment_id = $1",
        *(experiment.experiment_id, State.STOPPED.value, now, reason),
    )


# Sums.


async def read_records(session: Session, experiment_id: str) -> dict[Metric, Record]:
    """The sums of an experiment."""
    select = "SELECT * FROM experiment_metrics WHERE experiment_id = $1"
    return rows.to_records(await session.fetch(select, experiment_id))


async def read_courses(session: Session, experiment_id: str) -> dict[Metric, list[Point]]:
    """The arms at earlier times, oldest first."""
    select = "SELECT * FROM experiment_courses WHERE experiment_id = $1 ORDER BY position"
    return rows.to_courses(await session.fetch(select, experiment_id))


async def open_tally(session: Session, experiment: Experiment, subjects: Collection[str]) -> Tally:
    """The sums of an experiment, to which requests of these subjects can be added."""
    known: dict[str, Clusters] = {}
    for names in _batches(sorted(subjects)):
        marks = ", ".join(f"${at}" for at in range(2, len(names) + 2))
        select = "SELECT subject, content FROM experiment_subjects WHERE experiment_id = $1"
        of_names = f"{select} AND subject IN ({marks})"
        for row in await session.fetch(of_names, experiment.experiment_id, *names):
            known[row["subject"]] = rows.to_clusters(row["content"])
    return Tally(experiment, await read_records(session, experiment.experiment_id), known)


async def put_tally(session: Session, tally: Tally, *, now: datetime) -> None:
    """Stores the sums, the subjects, and a point of each course that is due."""
    experiment = tally.experiment
    key = experiment.experiment_id
    update = "UPDATE experiments SET counts = $2 WHERE experiment_id = $1"
    await session.fetch(update, key, rows.counts_text(experiment.counts))
    for metric in tally.due():
        record = tally.records[metric]
        point = rows.point_text(record.summaries())
        await session.fetch(_PUT_POINT, key, metric.value, record.count, point)
        tally.records[metric] = record.passed()
    for metric in sorted(tally.changed):
        text = rows.record_text(tally.records[metric])
        await session.fetch(_PUT_METRIC, key, metric.value, text)
    await _put_many(
        session,
        "experiment_subjects",
        _SUBJECT_COLUMNS,
        ("experiment_id", "subject"),
        [
            (key, name, rows.clusters_text(clusters), now)
            for name, clusters in sorted(tally.subjects.items())
        ],
    )


# Requests that callers may score.


async def put_requests(session: Session, requests: Iterable[ScorableRequest]) -> None:
    """Stores requests; one that is stored keeps its score."""
    newest = {(request.principal, request.request_id): request for request in requests}
    for some in _batches(list(newest.values())):
        values = [value for request in some for value in _request_values(request)]
        names = ", ".join(_REQUEST_COLUMNS)
        await session.fetch(
            f"INSERT INTO scorable_requests ({names})"  # noqa: S608
            f" VALUES {value_rows(len(some), len(_REQUEST_COLUMNS))}"
            " ON CONFLICT (principal, request_id) DO NOTHING",
            *values,
        )


async def find_request(session: Session, principal: str, request_id: str) -> ScorableRequest | None:
    """A request of a principal."""
    found = await session.fetch(
        "SELECT * FROM scorable_requests WHERE principal = $1 AND request_id = $2",
        *(principal, request_id),
    )
    return _to_request(found[0]) if found else None


async def put_score(session: Session, request: ScorableRequest, score: float) -> None:
    """Stores the score of a request."""
    await session.fetch(
        "UPDATE scorable_requests SET score = $3 WHERE principal = $1 AND request_id = $2",
        *(request.principal, request.request_id, repr(score)),
    )


def _request_values(request: ScorableRequest) -> Sequence[Value]:
    return (
        request.principal,
        request.request_id,
        request.experiment_id,
        request.arm,
        request.subject,
        "" if request.score is None else repr(request.score),
        request.ended_at,
    )


def _to_request(row: Row) -> ScorableRequest:
    return ScorableRequest(
        principal=row["principal"],
        request_id=row["request_id"],
        experiment_id=row["experiment_id"],
        arm=row["arm"],
        subject=row["subject"],
        ended_at=to_moment(row["ended_at"]),
        score=float(row["score"]) if row["score"] else None,
    )


# What is no longer needed.


async def prune_requests(session: Session, *, before: datetime, most: int) -> None:
    """Removes requests that ended before a time, and the oldest ones beyond a number."""
    await session.fetch("DELETE FROM scorable_requests WHERE ended_at < $1", before)
    await session.fetch(
        "DELETE FROM scorable_requests WHERE ended_at < (SELECT ended_at FROM scorable_requests"
        " ORDER BY ended_at DESC LIMIT 1 OFFSET $1)",
        most - 1,
    )


async def prune_subjects(session: Session, *, ended_before: datetime, most: int) -> None:
    """Removes the subjects of experiments that ended before a time, and of each experiment those
    beyond a number that were seen longest ago.
    """
    await session.fetch(
        "DELETE FROM experiment_subjects WHERE experiment_id IN"
        " (SELECT experiment_id FROM experiments WHERE ended_at < $1)",
        ended_before,
    )
    counted = "SELECT experiment_id FROM experiment_subjects GROUP BY experiment_id"
    for row in await session.fetch(f"{counted} HAVING COUNT(*) > $1", most):
        await session.fetch(
            "DELETE FROM experiment_subjects WHERE experiment_id = $1 AND seen_at < ("
            "SELECT seen_at FROM experiment_subjects WHERE experiment_id = $1"
            " ORDER BY seen_at DESC LIMIT 1 OFFSET $2)",
            *(row["experiment_id"], most - 1),
        )


async def _put_many(
    session: Session,
    table: str,
    columns: Sequence[str],
    key: Sequence[str],
    values: Sequence[Sequence[Value]],
) -> None:
    for some in _batches(values):
        statement = upsert(table, columns, key, rows=len(some))
        await session.fetch(statement, *(value for row in some for value in row))


def _batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _ROWS):
        yield items[start : start + _ROWS]

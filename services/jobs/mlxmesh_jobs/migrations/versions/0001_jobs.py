"""The first tables of the jobs service.

Times are milliseconds since 1970 in UTC, and 0 where there is none. What changes while a job runs
is in `jobs`; what never does is in `job_contents`, so that no update copies it. `lanes` counts the
jobs that differ in nothing that a claim looks at: a claim chooses lanes, and takes the oldest jobs
of each by an index.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False, primary_key=primary_key)


def _big(name: str, *, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column(
        name, sa.BigInteger(), nullable=False, primary_key=primary_key, autoincrement=False
    )


def _key(name: str, *, counts: bool = False) -> sa.Column[int]:
    # SQLite stores rows by a primary key of exactly this type.
    column_type = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, column_type, nullable=False, primary_key=True, autoincrement=counts)


def _real(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double(), nullable=False)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def upgrade() -> None:
    """Creates the tables."""
    counters = op.create_table("counters", _text("name", primary_key=True), _big("value"))
    op.bulk_insert(counters, [{"name": "change", "value": 0}, {"name": "key", "value": 0}])
    _jobs()
    _parts_of_jobs()
    _lanes()
    _sessions()
    _batches()
    _files()
    _usage()


def _jobs() -> None:
    op.create_table(
        "jobs",
        _key("key"),
        _text("job_id"),
        *map(_big, ["kind", "priority", "batch_key", "number", "created_ms", "not_before_ms"]),
        *map(_text, ["queue", "principal", "connector"]),
        *map(_big, ["state", "lane", "session", "attempt", "sequence", "outputs"]),
        *map(_big, ["deadline_ms", "ready_ms", "delay_ms", "started_ms", "attempt_ms"]),
        *map(_big, ["ended_ms", "expires_ms", "failures", "unavailable", "losses"]),
        _real("cost"),
        *map(_text, ["worker_id", "failure", "progress"]),
        sa.UniqueConstraint("job_id"),
    )
    _index("jobs_waiting", ["lane", "key"], "state = 2")
    _index("jobs_delayed", ["ready_ms"], "state = 1")
    _index("jobs_delays", [sa.text("(ready_ms - delay_ms)")], "state = 1 AND delay_ms > 0")
    _index("jobs_cancelling", ["key"], "state = 4")
    _index("jobs_held", ["session"], "session > 0")
    _index("jobs_deadline", ["deadline_ms", "key"], "deadline_ms > 0 AND ended_ms = 0")
    _index("jobs_expires", ["expires_ms"], "expires_ms > 0")
    _index("jobs_batch", ["batch_key", "number"], "batch_key > 0")
    _index("jobs_principal", ["principal", "key"], "batch_key = 0")
    _index("jobs_queue", ["queue", "key"], "batch_key = 0")
    _index("jobs_failed", ["key"], "state = 6 AND batch_key = 0")


def _index(name: str, columns: Sequence[str | sa.TextClause], where: str) -> None:
    condition = sa.text(where)
    op.create_index(
        f"ix_{name}",
        name.partition("_")[0],
        list(columns),
        sqlite_where=condition,
        postgresql_where=condition,
    )


def _parts_of_jobs() -> None:
    op.create_table(
        "job_contents", _key("key"), _bytes("digest"), _text("details"), _bytes("request")
    )
    op.create_table("job_results", _key("key"), _bytes("result"))
    op.create_table("job_resumptions", _key("key"), _bytes("position"), _text("back_end_state"))
    op.create_table(
        "job_outputs",
        *(_big(name, primary_key=True) for name in ("job_key", "sequence")),
        _bytes("data"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "job_attempts",
        *(_big(name, primary_key=True) for name in ("job_key", "attempt")),
        *map(_text, ["worker_id", "failure", "recovery"]),
        *map(_big, ["started_ms", "ended_ms"]),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "job_labels",
        *(_text(name, primary_key=True) for name in ("name", "value")),
        _big("job_key", primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_job_labels_job_key", "job_labels", ["job_key"])
    op.create_table(
        "job_files",
        _text("file_id", primary_key=True),
        _big("job_key", primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_job_files_job_key", "job_files", ["job_key"])


def _lanes() -> None:
    of_lane = ["queue", "priority", "principal", "kind", "connector", "batch_key"]
    op.create_table(
        "lanes",
        _key("id", counts=True),
        *map(_text, ["queue", "principal", "connector"]),
        *map(_big, ["priority", "kind", "batch_key"]),
        *map(_big, ["delayed", "waiting", "running", "failed", "served"]),
        sa.UniqueConstraint(*of_lane),
    )
    _index("lanes_next", [sa.text("priority DESC"), "running", "served", "id"], "waiting > 0")
    op.create_index("ix_lanes_principal", "lanes", ["principal", "queue"])
    _index("lanes_running", ["queue", "principal"], "running > 0")
    _index("lanes_batch", ["batch_key"], "batch_key > 0")
    op.create_table(
        "queues",
        _text("name", primary_key=True),
        *map(_big, ["paused", "max_running", "max_running_per_principal"]),
        _big("max_waiting_per_principal"),
        _real("starts_per_second"),
        _big("burst"),
        _real("tokens"),
        _big("refilled_ms"),
    )
    op.create_table("blocked_principals", _text("principal", primary_key=True), _big("until_ms"))


def _sessions() -> None:
    op.create_table(
        "sessions",
        _key("key", counts=True),
        *map(_text, ["worker_id", "session"]),
        *map(_big, ["beat", "ended_ms"]),
        _bytes("facts"),
        sa.UniqueConstraint("worker_id", "session"),
    )
    op.create_index("ix_sessions_ended_ms", "sessions", ["ended_ms"])


def _batches() -> None:
    op.create_table(
        "batches",
        _key("key"),
        *map(_big, ["max_running", "read_bytes", "stored", "total", "completed", "failed"]),
        *map(_big, ["cancelled", "prompt_tokens", "completion_tokens"]),
    )


def _files() -> None:
    op.create_table(
        "files",
        _text("file_id", primary_key=True),
        *map(_text, ["name", "sha256", "media_type", "owner", "principal", "job_id"]),
        *map(_big, ["purpose", "size_bytes", "complete", "created_ms", "expires_ms"]),
        _big("appended_ms"),
    )
    op.create_index("ix_files_created_ms", "files", ["created_ms", "file_id"])
    op.create_index("ix_files_principal", "files", ["principal", "created_ms", "size_bytes"])
    op.create_index("ix_files_job_id", "files", ["job_id", "size_bytes"])
    _index("files_expires", ["expires_ms"], "expires_ms > 0")
    _index("files_begun", ["appended_ms"], "complete = 0")
    op.create_table(
        "file_pieces",
        _text("file_id", primary_key=True),
        _big("offset_bytes", primary_key=True),
        _bytes("data"),
    )


def _usage() -> None:
    op.create_table(
        "usage_outbox",
        _key("id", counts=True),
        *map(_text, ["batch_id", "owner", "model"]),
        *map(_big, ["sent_ms", "model_version", "used_ms", "failed", "prompt_tokens"]),
        *map(_big, ["cached_tokens", "completion_tokens", "device_ms"]),
    )
    op.create_index("ix_usage_outbox_batch_id", "usage_outbox", ["batch_id", "id"])


def downgrade() -> None:
    """Drops the tables and their contents."""
    tables = ["usage_outbox", "file_pieces", "files", "batches", "sessions", "blocked_principals"]
    tables += ["queues", "lanes", "job_files", "job_labels", "job_attempts", "job_outputs"]
    for table in [*tables, "job_resumptions", "job_results", "job_contents", "jobs", "counters"]:
        op.drop_table(table)

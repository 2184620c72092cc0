"""Adds the tables of experiments."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False, primary_key=primary_key)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _of_experiment() -> sa.ForeignKeyConstraint:
    columns = ["experiments.experiment_id"]
    return sa.ForeignKeyConstraint(["experiment_id"], columns, ondelete="CASCADE")


def upgrade() -> None:
    """Adds the tables."""
    op.create_table(
        "experiments",
        _text("experiment_id", primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False, unique=True),
        *map(_text, ["model", "alias", "content", "state", "reason", "counts"]),
        _time("created_at"),
        _time("ended_at", nullable=True),
    )
    op.create_index("ix_experiments_state", "experiments", ["state"])
    # The sums of each metric, and those at earlier times.
    op.create_table(
        "experiment_metrics",
        _text("experiment_id", primary_key=True),
        _text("metric", primary_key=True),
        _text("content"),
        _of_experiment(),
    )
    op.create_table(
        "experiment_courses",
        _text("experiment_id", primary_key=True),
        _text("metric", primary_key=True),
        sa.Column("position", sa.Integer(), nullable=False, primary_key=True),
        _text("content"),
        _of_experiment(),
    )
    op.create_table(
        "experiment_subjects",
        _text("experiment_id", primary_key=True),
        _text("subject", primary_key=True),
        _text("content"),
        _time("seen_at"),
        _of_experiment(),
    )
    op.create_index(
        "ix_experiment_subjects_seen_at", "experiment_subjects", ["experiment_id", "seen_at"]
    )
    # Recent requests of experiments, for the scores of their callers.
    op.create_table(
        "scorable_requests",
        _text("principal", primary_key=True),
        _text("request_id", primary_key=True),
        *map(_text, ["experiment_id", "arm", "subject", "score"]),
        _time("ended_at"),
    )
    op.create_index("ix_scorable_requests_ended_at", "scorable_requests", ["ended_at"])


def downgrade() -> None:
    """Drops the tables with their contents."""
    for table in (
        "scorable_requests",
        "experiment_subjects",
        "experiment_courses",
        "experiment_metrics",
        "experiments",
    ):
        op.drop_table(table)

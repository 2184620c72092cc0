"""Adds the tables of rollouts, and the lease of the model service that leads."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False, primary_key=primary_key)


def _number(name: str, *, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, primary_key=primary_key)


def upgrade() -> None:
    """Adds the tables. Rollouts have no foreign key: their history outlives the model."""
    op.create_table(
        "rollouts",
        _text("rollout_id", primary_key=True),
        _text("model"),
        _number("created_us"),
        sa.Column("active", sa.Integer(), nullable=False),
        _text("content"),
    )
    op.create_index("ix_rollouts_active", "rollouts", ["active"])
    op.create_index("ix_rollouts_created", "rollouts", ["created_us", "rollout_id"])
    op.create_table(
        "rollout_changes",
        _text("rollout_id", primary_key=True),
        _number("revision", primary_key=True),
        _text("content"),
    )
    op.create_table(
        "rollout_counts",
        _text("rollout_id", primary_key=True),
        _number("step_window", primary_key=True),
        _number("version", primary_key=True),
        _text("content"),
    )
    op.create_table(
        "leadership",
        _text("name", primary_key=True),
        _text("holder"),
        _number("term"),
        _number("beat"),
    )


def downgrade() -> None:
    """Drops the tables with their contents; a rollout that runs keeps its split."""
    for table in ("leadership", "rollout_counts", "rollout_changes", "rollouts"):
        op.drop_table(table)

"""Adds the sums of outcomes by period, and when batches were recorded."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_KEY = ("length_s", "start_s")
_COUNTS = (
    *("requests", "errors", "refused", "cancelled"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "device_us"),
)


def _number(name: str, *, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, primary_key=primary_key)


def upgrade() -> None:
    """Adds the table and the column."""
    op.create_table(
        "history",
        # Not a foreign key: a model that is deleted keeps its history.
        sa.Column("model", sa.String(), nullable=False, primary_key=True),
        sa.Column("version", sa.Integer(), nullable=False, primary_key=True),
        *(_number(name, primary_key=True) for name in _KEY),
        *map(_number, _COUNTS),
        sa.Column("cost", sa.Float(), nullable=False),
        *(sa.Column(name, sa.LargeBinary(), nullable=False) for name in ("ttft", "tpot")),
    )
    op.create_index("ix_history_start", "history", list(_KEY))
    recorded = sa.Column("recorded_s", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("outcome_batches", recorded)


def downgrade() -> None:
    """Drops them with their contents."""
    with op.batch_alter_table("outcome_batches") as batches:
        batches.drop_column("recorded_s")
    op.drop_table("history")

"""Adds the tables of shadow pairs."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False, primary_key=primary_key)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _real(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), nullable=False)


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def _of_shadow() -> sa.ForeignKeyConstraint:
    columns = ["shadows.shadow_id"]
    return sa.ForeignKeyConstraint(["shadow_id"], columns, ondelete="CASCADE")


def upgrade() -> None:
    """Adds the tables, and numbers shadows in the order in which they were started."""
    number = sa.Column("number", sa.Integer(), nullable=False, server_default="0")
    op.add_column("shadows", number)
    op.create_index("ix_shadows_number", "shadows", ["number"])
    # The sums over all pairs, as JSON.
    op.create_table(
        "shadow_tallies", _text("shadow_id", primary_key=True), _text("content"), _of_shadow()
    )
    # The latest pairs.
    op.create_table(
        "shadow_pairs",
        _text("shadow_id", primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False, primary_key=True),
        _text("request_id"),
        _number("from_version"),
        _time("compared_at"),
        sa.Column("equal", sa.Boolean(), nullable=False),
        _number("first_difference"),
        _real("edit_distance"),
        *map(_number, ["primary_tokens", "shadow_tokens"]),
        *map(_real, ["primary_ttft_ms", "shadow_ttft_ms"]),
        *map(_real, ["primary_tokens_per_second", "shadow_tokens_per_second"]),
        _of_shadow(),
    )
    # The last batch of each generation instance.
    op.create_table(
        "shadow_batches", _text("instance_id", primary_key=True), _number("batch"), _time("seen_at")
    )


def downgrade() -> None:
    """Drops the tables with their contents."""
    for table in ("shadow_batches", "shadow_pairs", "shadow_tallies"):
        op.drop_table(table)
    op.drop_index("ix_shadows_number", "shadows")
    with op.batch_alter_table("shadows") as shadows:
        shadows.drop_column("number")

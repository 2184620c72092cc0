"""Adds policies, splits, shadows, ensembles, profiles of versions, and recorded batches."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False, primary_key=primary_key)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _of_model() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["model"], ["models.name"], ondelete="CASCADE")


def upgrade() -> None:
    """Adds the columns and tables; existing models have the default policy."""
    for name, default in (("policy", "{}"), ("ensemble", "")):
        column = sa.Column(name, sa.String(), nullable=False, server_default=default)
        op.add_column("models", column)
    op.add_column("versions", sa.Column("profile", sa.String(), nullable=False, server_default=""))
    revision_column = sa.Column(
        "profile_revision", sa.Integer(), nullable=False, server_default="0"
    )
    op.add_column("versions", revision_column)
    selected = sa.Column("selected", sa.Integer(), nullable=False, server_default="0")
    op.add_column("versions", selected)
    op.execute("UPDATE versions SET selected = 1 WHERE desired_replicas > 0")
    op.create_table(
        "splits",
        _text("model", primary_key=True),
        _text("alias", primary_key=True),
        _text("content"),
        _of_model(),
    )
    op.create_table(
        "shadows",
        _text("shadow_id", primary_key=True),
        _text("model"),
        *map(_number, ["from_version", "to_version"]),
        sa.Column("percent", sa.Float(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_index("ix_shadows_model", "shadows", ["model"])
    op.create_table(
        "outcome_batches",
        _text("instance_id", primary_key=True),
        sa.Column("batch", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    """Drops the columns and tables with their contents."""
    for table in ("outcome_batches", "shadows", "splits"):
        op.drop_table(table)
    with op.batch_alter_table("versions") as versions:
        versions.drop_column("selected")
        versions.drop_column("profile_revision")
        versions.drop_column("profile")
    with op.batch_alter_table("models") as models:
        models.drop_column("ensemble")
        models.drop_column("policy")

"""Adds the LoRA adapters of models."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False, primary_key=primary_key)


def upgrade() -> None:
    """Adds the table; existing models have no adapters."""
    op.create_table(
        "adapters",
        _text("model", primary_key=True),
        _text("name", primary_key=True),
        _text("digest"),
        _text("directory"),
        _text("format"),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("weights_bytes", sa.BigInteger(), nullable=False),
        _text("modules"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.name"], ondelete="CASCADE"),
    )


def downgrade() -> None:
    """Drops the table; the files of the adapters stay."""
    op.drop_table("adapters")

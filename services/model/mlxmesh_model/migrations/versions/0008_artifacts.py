"""Adds the files of each version and what the last check of them found."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def _key() -> list[sa.Column[str] | sa.Column[int]]:
    return [
        sa.Column("model", sa.String(), nullable=False, primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False, primary_key=True),
    ]


def _of_version() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["model", "number"], ["versions.model", "versions.number"], ondelete="CASCADE"
    )


def upgrade() -> None:
    """Adds the tables; the files of existing versions are recorded when they are verified."""
    op.create_table(
        "artifact_files",
        *_key(),
        sa.Column("name", sa.String(), nullable=False, primary_key=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("git_oid", sa.String(), nullable=False),
        _of_version(),
    )
    op.create_table(
        "artifact_checks",
        *_key(),
        sa.Column("damaged_files", sa.String(), nullable=False),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=False),
        _of_version(),
    )


def downgrade() -> None:
    """Drops the tables with their contents; the versions and their directories remain."""
    op.drop_table("artifact_checks")
    op.drop_table("artifact_files")

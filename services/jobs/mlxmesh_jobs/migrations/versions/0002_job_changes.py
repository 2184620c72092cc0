"""Orders jobs by their last change, for those who watch all of their jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the number of the transaction that changed a job last; 0 before, and for requests."""
    op.add_column("jobs", sa.Column("change", sa.BigInteger(), nullable=False, server_default="0"))
    condition = sa.text("change > 0")
    op.create_index(
        "ix_jobs_change",
        "jobs",
        ["change"],
        sqlite_where=condition,
        postgresql_where=condition,
    )


def downgrade() -> None:
    """Drops the numbers."""
    op.drop_index("ix_jobs_change", "jobs")
    op.drop_column("jobs", "change")

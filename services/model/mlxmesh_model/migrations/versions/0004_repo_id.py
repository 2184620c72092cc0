"""The column of a repository at a hub is named repo_id, as everywhere else."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Renames the column in place: SQLite and PostgreSQL have the same statement for it."""
    op.execute("ALTER TABLE versions RENAME COLUMN hub_id TO repo_id")


def downgrade() -> None:
    """Restores the old name."""
    op.execute("ALTER TABLE versions RENAME COLUMN repo_id TO hub_id")

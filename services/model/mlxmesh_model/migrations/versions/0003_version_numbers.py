"""The last version number of a model outlives the model, so that it is never given again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the number to the tombstones; of models removed before, it is not known."""
    with op.batch_alter_table("tombstones") as tombstones:
        tombstones.add_column(
            sa.Column("last_version", sa.Integer(), nullable=False, server_default="0")
        )


def downgrade() -> None:
    """Forgets the numbers."""
    with op.batch_alter_table("tombstones") as tombstones:
        tombstones.drop_column("last_version")

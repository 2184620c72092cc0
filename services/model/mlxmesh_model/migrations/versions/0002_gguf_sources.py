"""Adds the GGUF file that a version was made from."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns; existing versions have no GGUF file."""
    for name in ("source_file", "source_dtype"):
        op.add_column("versions", sa.Column(name, sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    """Drops the columns; the models remain."""
    with op.batch_alter_table("versions") as versions:
        versions.drop_column("source_dtype")
        versions.drop_column("source_file")

"""Adds how the output of a version is read, where that is set."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns; the chat templates of existing versions decide."""
    for name in ("tool_format", "reasoning_format"):
        op.add_column("versions", sa.Column(name, sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    """Drops the columns and what was set."""
    with op.batch_alter_table("versions") as versions:
        versions.drop_column("reasoning_format")
        versions.drop_column("tool_format")

"""Adds the servers that answer for versions."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; the existing versions are run by engines."""
    op.add_column("versions", sa.Column("upstream", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    """Drops the column with the versions that have one: nothing else could answer for them."""
    op.execute(
        "DELETE FROM aliases WHERE EXISTS (SELECT 1 FROM versions v WHERE v.model = aliases.model"
        " AND v.number = aliases.number AND v.upstream <> '')"
    )
    op.execute("DELETE FROM versions WHERE upstream <> ''")
    op.execute(
        "DELETE FROM models WHERE ensemble = '' AND name NOT IN (SELECT model FROM versions)"
    )
    with op.batch_alter_table("versions") as versions:
        versions.drop_column("upstream")

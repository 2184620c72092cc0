"""Adds what versions serve."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns; the existing versions generate text."""
    for name, default in (("source_kind", ""), ("kind", "generation")):
        column = sa.Column(name, sa.String(), nullable=False, server_default=default)
        op.add_column("versions", column)
    dimensions = sa.Column("dimensions", sa.Integer(), nullable=False, server_default="0")
    op.add_column("versions", dimensions)


def downgrade() -> None:
    """Drops the columns; what does not generate text is refused by engines from then on."""
    with op.batch_alter_table("versions") as versions:
        versions.drop_column("dimensions")
        versions.drop_column("kind")
        versions.drop_column("source_kind")

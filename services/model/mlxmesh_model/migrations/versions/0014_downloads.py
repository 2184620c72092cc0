"""Adds the downloads from hubs."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the tables. A download has no foreign key: it begins before its version."""
    op.create_table(
        "downloads",
        sa.Column("download_id", sa.String(), nullable=False, primary_key=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
    )
    op.create_index("ix_downloads_created", "downloads", ["created_us", "download_id"])
    counter = op.create_table(
        "download_counter", sa.Column("value", sa.BigInteger(), nullable=False)
    )
    op.bulk_insert(counter, [{"value": 0}])


def downgrade() -> None:
    """Drops the tables; what is on disk is continued by the next pull of the same source."""
    op.drop_table("download_counter")
    op.drop_table("downloads")

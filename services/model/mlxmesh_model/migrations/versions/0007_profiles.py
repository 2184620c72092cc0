"""Adds profiles, the settings of loaded versions, and those of each replica."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the tables and columns; existing versions and replicas have the defaults."""
    op.create_table(
        "profiles",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("last_revision", sa.Integer(), nullable=False),
    )
    op.create_table(
        "profile_revisions",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("revision", sa.Integer(), primary_key=True),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    for table, name, default in (
        ("versions", "profile_settings", "{}"),
        ("replicas", "settings_id", ""),
    ):
        column = sa.Column(name, sa.String(), nullable=False, server_default=default)
        op.add_column(table, column)
    op.create_index("ix_versions_profile", "versions", ["profile"])


def downgrade() -> None:
    """Drops the tables and columns with their contents."""
    op.drop_index("ix_versions_profile", "versions")
    with op.batch_alter_table("replicas") as replicas:
        replicas.drop_column("settings_id")
    with op.batch_alter_table("versions") as versions:
        versions.drop_column("profile_settings")
    op.drop_table("profile_revisions")
    op.drop_table("profiles")

"""The Alembic revisions, by number."""

"""The access database's schema: one Alembic revision per change."""

"""The catalogue's schema: one Alembic revision per change."""

"""The tools database's schema: one Alembic revision per change."""

"""How the catalogue's tables came to be: one alembic revision a change."""

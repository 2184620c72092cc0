"""SQL for the services that store something: SQLite by default, PostgreSQL by URL."""

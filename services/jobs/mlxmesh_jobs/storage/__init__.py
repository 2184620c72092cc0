"""Jobs, files and batches in the database."""

"""Durable jobs, batches and their files."""

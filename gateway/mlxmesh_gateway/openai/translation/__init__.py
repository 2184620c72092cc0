"""Requests of OpenAI's API outside of HTTP: those of batches."""

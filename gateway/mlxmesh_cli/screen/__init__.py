"""Formats output for a terminal: tables, responses, logs."""

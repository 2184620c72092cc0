"""Batches: from a file of requests to a file of results."""

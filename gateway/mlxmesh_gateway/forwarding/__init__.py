"""Forwards calls to instances: which one, retries, hedging, and resumption of streams."""

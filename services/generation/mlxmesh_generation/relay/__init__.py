"""Relays: calls of a gateway that are carried, many at once, by one call."""

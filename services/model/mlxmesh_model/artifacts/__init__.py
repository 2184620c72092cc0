"""Model files: pulling from a hub, importing, validating and storing."""

"""Per host: starts, watches, restarts and drains engine processes."""

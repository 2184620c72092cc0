"""Keys and values of the running batch, and of prefixes that are kept."""

"""Who callers are, what they may use and what they used, as the access service says."""

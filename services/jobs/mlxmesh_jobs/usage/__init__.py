"""Tells the access service what jobs have used, and starts no jobs beyond quotas."""

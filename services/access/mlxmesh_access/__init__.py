"""Users, API keys, quotas, usage and the audit log."""

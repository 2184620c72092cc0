"""Quotas, and the slices of them that gateways hold."""

"""Quotas: slices of limits that are leased from the access service and spent here."""

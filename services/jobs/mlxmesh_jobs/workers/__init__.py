"""The connected workers: sessions, leases, assignments."""

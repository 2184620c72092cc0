"""Code that all services share; it depends on no service."""

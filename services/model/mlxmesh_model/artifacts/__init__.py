"""Model files: pulled from a hub, imported, checked, stored."""

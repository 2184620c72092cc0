"""Shadows: traffic that is repeated at another version, and what the comparison found."""

"""Finds a mesh and explains why it cannot be reached."""

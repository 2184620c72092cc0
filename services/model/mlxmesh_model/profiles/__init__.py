"""Profiles: named settings of engines, in revisions that never change."""

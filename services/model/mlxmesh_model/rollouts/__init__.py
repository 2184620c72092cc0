"""Rollouts: an alias moves from one version to another in steps that guards judge."""

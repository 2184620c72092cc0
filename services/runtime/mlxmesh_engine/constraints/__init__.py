"""Constraints on the output: compiled, and walked token by token, by llguidance."""

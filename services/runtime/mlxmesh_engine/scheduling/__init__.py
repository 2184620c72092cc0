"""Decides which sequences run and how much each step prefills; without MLX."""

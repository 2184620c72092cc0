"""Which sequences run next, and how much of each: decisions without MLX."""

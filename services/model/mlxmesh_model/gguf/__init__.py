"""Converts GGUF files to mlx-lm model directories in a separate process, without MLX."""

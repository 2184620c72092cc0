"""GGUF files, converted to mlx-lm model directories by a process of its own, without MLX."""

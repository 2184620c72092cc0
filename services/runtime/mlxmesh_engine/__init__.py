"""One loaded replica of a model on MLX: token ids in, token ids out."""

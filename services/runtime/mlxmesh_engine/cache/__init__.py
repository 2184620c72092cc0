"""The KV cache of the running batches, and the prefix cache."""

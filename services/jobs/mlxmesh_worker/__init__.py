"""Runs jobs: generations, requests of batches, embeddings, and work of other back ends."""

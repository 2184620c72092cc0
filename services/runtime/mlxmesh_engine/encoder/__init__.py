"""Encoder models: vectors and scores of texts."""

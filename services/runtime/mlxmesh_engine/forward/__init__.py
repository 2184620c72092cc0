"""Loads a model and runs it: prefill, decode, and the engine's own forward passes."""

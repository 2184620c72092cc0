"""Loads a model and runs it: prefill, decode, and an optimized forward pass for CPUs."""

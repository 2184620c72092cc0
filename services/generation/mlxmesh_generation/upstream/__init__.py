"""Generations that an OpenAI-compatible server runs: what is asked of it, and what it answers."""

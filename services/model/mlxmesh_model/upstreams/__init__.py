"""Versions that OpenAI-compatible servers answer for."""

"""OpenAI's /v1/files."""

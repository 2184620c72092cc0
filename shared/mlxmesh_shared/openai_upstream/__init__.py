"""A client of OpenAI-compatible servers: chat, completions, embeddings and their list of models."""

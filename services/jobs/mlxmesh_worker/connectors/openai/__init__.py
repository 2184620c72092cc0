"""Connector of OpenAI-compatible servers: chats, completions, embeddings and images."""

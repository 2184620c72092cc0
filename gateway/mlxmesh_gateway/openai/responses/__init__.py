"""OpenAI's Responses API: responses that clients retrieve, resume and cancel by their ids."""

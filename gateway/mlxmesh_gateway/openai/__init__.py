"""OpenAI's HTTP API: a translation to and from the contracts, without policy."""

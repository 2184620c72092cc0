"""The prefix cache: what is stored of prompts, in memory and on disk, which survives a restart."""

"""Search of a model hub, and downloads that run in the background."""

"""The events of a stream."""

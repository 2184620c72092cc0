"""Which engine a sequence runs on, and the streams to the engines."""

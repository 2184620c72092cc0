"""Tools, thinking and the form of the output."""

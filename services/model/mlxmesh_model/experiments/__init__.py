"""Experiments: versions of a model compared on the traffic of an alias."""

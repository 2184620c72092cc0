"""Runs the whole mesh as processes on one host: what `mlxmesh up` and `make demo` do."""

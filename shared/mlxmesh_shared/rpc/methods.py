"""Kinds of methods: what serves the mesh itself is neither counted nor traced as work."""


def is_infrastructure(method: str) -> bool:
    """Whether a method is health or reflection: no work of ours, never refused for load."""
    return method.startswith("/grpc.")


def is_background(method: str) -> bool:
    """Whether a method serves the mesh itself: infrastructure, and the receiving of telemetry.

    Watching the calls that bring what was watched would never end.
    """
    return is_infrastructure(method) or method.startswith("/opentelemetry.")

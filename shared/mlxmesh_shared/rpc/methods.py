"""Kinds of methods: those of the mesh itself are neither limited nor traced like others."""


def is_infrastructure(method: str) -> bool:
    """Whether a method is health or reflection, which is never rejected because of load."""
    return method.startswith("/grpc.")


def is_background(method: str) -> bool:
    """Whether a method is infrastructure or receives telemetry.

    To measure the calls that export measurements would produce ever more of them.
    """
    return is_infrastructure(method) or method.startswith("/opentelemetry.")

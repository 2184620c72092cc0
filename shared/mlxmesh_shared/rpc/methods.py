"""Kinds of methods: those of the mesh itself are neither limited nor traced like others."""


def is_infrastructure(method: str) -> bool:
    """Whether a method is health or reflection, which is never rejected because of load."""
    return method.startswith("/grpc.")


_POLLED = (
    "/mlxmesh.control.v1.ProcessService/",
    "/mlxmesh.telemetry.v1.LiveService/ReadRequests",
    "/mlxmesh.telemetry.v1.TelemetryService/GetMeshStatus",
    "/mlxmesh.telemetry.v1.TelemetryService/GetTraffic",
)


def is_polled(method: str) -> bool:
    """Whether a method is called again and again while somebody watches the mesh.

    Its successes would fill the very logs that are watched.
    """
    return method.startswith(_POLLED)


def is_background(method: str) -> bool:
    """Whether a method is infrastructure or receives telemetry.

    To measure the calls that export measurements would produce ever more of them.
    """
    return is_infrastructure(method) or method.startswith("/opentelemetry.")

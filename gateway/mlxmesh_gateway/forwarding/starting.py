"""Has the launcher of this host start a service when a call needs it first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from mlxmesh.control.v1.launcher_pb2 import StartServiceRequest
from mlxmesh.control.v1.launcher_pb2_grpc import LauncherServiceStub
from mlxmesh_gateway.forwarding.backends import Backends
from mlxmesh_gateway.forwarding.routes import Route
from mlxmesh_shared.errors import DeadlineExceeded, ServiceUnavailable
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.rpc.channels import OpenChannel, open_channel

LAUNCHER = "launcher"
START_TIMEOUT_S = 60.0
_FIRST_USES = {
    "access": ("CreateUser",),
    "jobs": ("SubmitJob", "SubmitJobs", "CreateFile", "SetQueue"),
    "tools": ("AddServer",),
}
"""By service, the methods that start it; others of a service without data have nothing to do."""


class StartOnUse:
    """Starts services that run only on meshes that use them, one start at a time."""

    def __init__(
        self,
        registry: Registry,
        backends: Backends,
        *,
        open_: OpenChannel = open_channel,
        host: Callable[[], str] = socket.gethostname,
        timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._registry = registry
        self._backends = backends
        self._open = open_
        self._host = host
        self._timeout_s = timeout_s
        self._starts: dict[str, asyncio.Task[None]] = {}

    async def ensure(self, route: Route) -> None:
        """Returns at once unless this call is the first use of its service; then once it serves.

        Where no launcher runs on this host, it leaves the error to the forwarder.
        Raises: ServiceUnavailable, or the launcher's error, when the service does not start.
        """
        methods = _FIRST_USES.get(route.backend, ())
        if self._backends.has(route.backend) or route.path.rpartition("/")[2] not in methods:
            return
        start = self._starts.get(route.backend)
        if start is None or start.done():
            start = asyncio.create_task(self._start(route.backend))
            self._starts[route.backend] = start
        # A caller that leaves must not end it for the others.
        await asyncio.shield(start)

    async def _start(self, service: str) -> None:
        launcher = await self._launcher()
        if launcher is None:
            return
        try:
            # The launcher's server has the certificate of a runtime.
            async with self._open(launcher.address, role="runtime") as channel:
                request = StartServiceRequest(name=service)
                stub = LauncherServiceStub(channel)
                await stub.StartService(request, timeout=self._timeout_s)
            async with asyncio.timeout(self._timeout_s):
                await self._backends.until_known(service)
        except (TimeoutError, DeadlineExceeded):
            raise ServiceUnavailable(
                f"the {service} service did not start within {self._timeout_s:.0f} s; its log has"
                f" more: `mlxmesh logs {service}` on its host"
            ) from None

    async def _launcher(self) -> Instance | None:
        found = await self._registry.resolve(LAUNCHER)
        return next((one for one in found if one.metadata.get("host") == self._host()), None)

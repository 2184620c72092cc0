"""The services' settings that the launcher needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlxmesh_launcher.ports import ListenRequest, port_of, with_port
from mlxmesh_shared.settings import (
    SETTINGS,
    GatewaySettings,
    GenerationSettings,
    ModelSettings,
    RuntimeSettings,
    load_settings,
    sources,
)

SERVICES = ("runtime", "model", "generation", "gateway")
"""In starting order."""
# A service ends its calls within its grace, and then closes what it has open.
STOP_MARGIN_S = 10.0


class ServiceSettings:
    """The settings of all services, as flags, environment and mlxmesh.toml make them."""

    def __init__(self, flags: Sequence[str]) -> None:
        """`flags` are those that every service gets. Raises: SettingsError."""
        self._flags = tuple(flags)
        self.of_runtime = load_settings(RuntimeSettings, flags)
        self.of_model = load_settings(ModelSettings, flags)
        self.of_generation = load_settings(GenerationSettings, flags)
        self.of_gateway = load_settings(GatewaySettings, flags)

    def listens(self) -> Mapping[str, str]:
        """Where each service but the gateway listens."""
        return {
            "runtime": self.of_runtime.listen,
            "model": self.of_model.listen,
            "generation": self.of_generation.listen,
        }

    def stop_timeouts_s(self, grace_s: float | None = None) -> Mapping[str, float]:
        """How long each service may take to stop; `grace_s` shortens what its settings say."""
        graces = {
            "runtime": self.of_runtime.stop_grace_s,
            "model": self.of_model.drain_grace_s,
            "generation": self.of_generation.drain_grace_s,
            "gateway": self.of_gateway.drain_grace_s,
        }
        limit = float("inf") if grace_s is None else grace_s
        return {name: min(limit, own) + STOP_MARGIN_S for name, own in graces.items()}

    def listen_requests(
        self, grpc_port: int | None, http_port: int | None
    ) -> Sequence[ListenRequest]:
        """Where services should listen; a port that is given comes before the settings."""
        listen = self.of_gateway.listen
        if grpc_port is not None:
            listen = with_port(listen, grpc_port)
        # Where its HTTP is by default depends on where it listens.
        flags = (*self._flags, "--listen", listen)
        http = load_settings(GatewaySettings, flags).http_listen
        if http_port is not None:
            http = with_port(http or "127.0.0.1:0", http_port)
        others = [
            ListenRequest(name, where) for name, where in self.listens().items() if port_of(where)
        ]
        return (
            ListenRequest("gateway", listen, grpc_port is None and self._is_default("listen")),
            ListenRequest("HTTP", http, http_port is None and self._is_default("http_listen")),
            *others,
        )

    def _is_default(self, name: str) -> bool:
        found = {one.name: one.source for one in sources(SETTINGS["gateway"], self._flags)}
        return found[name] == "default"

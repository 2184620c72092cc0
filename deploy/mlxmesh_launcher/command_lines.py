"""How each service is started: where it listens, and its command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlxmesh_launcher.options import MeshOptions
from mlxmesh_launcher.service_settings import (
    IsFree,
    ServiceSettings,
    choose,
    port_of,
    who_may_call,
    with_port,
)
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.shared_port import CAN_SHARE
from mlxmesh_shared.settings import MeshSettings, load_settings


class CommandLines:
    """The command lines of one mesh's services, once their addresses are chosen."""

    def __init__(self, options: MeshOptions, tls_dir: Path | None) -> None:
        """`tls_dir` has the certificates of a mesh with TLS. Raises: SettingsError."""
        tls = ("--tls-dir", str(tls_dir)) if tls_dir is not None else ()
        self._options = options
        self._tls = tls_dir is not None
        self._flags = (*options.settings_flags, *tls)
        self.settings = ServiceSettings(self._flags)
        self._listens: Mapping[str, str] = {}
        self.has_users = self.settings.uses_access()
        """Whether gateways that start ask for credentials at once, without waiting to hear from the
        access service that there are users."""
        self.gateway = self.http = ""
        """host:port of the gateway and of its HTTP, once it serves; no HTTP is empty."""

    def choose_addresses(self, is_free: IsFree) -> tuple[str, ...]:
        """Chooses where to listen; returns notes for the owner. Raises: IllegalState."""
        options = self._options
        requests = self.settings.listen_requests(options.grpc_port, options.http_port)
        self._listens, notes = choose(requests, is_free)
        return notes

    def of(self, name: str, *, takes_over: bool) -> Sequence[str]:
        """The command line of a process that starts now."""
        command = [sys.executable, "-m", f"mlxmesh_{name}", *self._flags]
        if name != "gateway":
            return command
        grace_s = self._options.stop_grace_s
        command += ["--listen", self._listens["gateway"], "--http-listen", self._listens["HTTP"]]
        command += ["--drain-grace-s", str(grace_s)] if grace_s is not None else []
        command += ["--take-over"] if takes_over else []
        # Else a gateway that starts before the access service could serve everybody.
        asks = self.has_users and self.settings.of_gateway.authentication == "auto"
        return [*command, *(["--authentication", "required"] if asks else [])]

    def who_may_call(self) -> str:
        """Who may call the gateway, in words for its owner."""
        return who_may_call(
            authentication=self.settings.of_gateway.authentication,
            has_users=self.has_users,
            listen=self._listens["gateway"],
            tls=self._tls,
            options=self._data_dir_option(),
        )

    def _data_dir_option(self) -> str:
        """What commands need to find the mesh; empty for the default data directory."""
        data_dir = self._options.data_dir
        default = load_settings(MeshSettings, []).data_dir.expanduser().resolve()
        return "" if data_dir == default else f" --data-dir {data_dir}"

    def can_overlap(self, name: str) -> bool:
        """Whether two processes of a service can listen at the same time."""
        if name == "gateway":
            return CAN_SHARE
        return port_of(self.settings.listens()[name]) == 0

    def pin(self, gateway: Instance) -> None:
        """A restarted gateway must listen where its clients expect it."""
        self.gateway, self.http = gateway.address, gateway.metadata.get("http", "")
        reached = {"gateway": self.gateway, "HTTP": self.http}
        self._listens = {
            **self._listens,
            **{
                what: with_port(self._listens[what], port_of(address))
                for what, address in reached.items()
                if address
            },
        }

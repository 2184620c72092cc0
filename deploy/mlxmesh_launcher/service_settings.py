"""The services' settings that the launcher needs: listeners, data directory, ports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.host.host_port import is_loopback, split_host_port
from mlxmesh_shared.settings import (
    SETTINGS,
    AccessSettings,
    GatewaySettings,
    GenerationSettings,
    JobsSettings,
    ModelSettings,
    RuntimeSettings,
    ToolsSettings,
    WorkerSettings,
    load_settings,
    sources,
)

MAX_PORTS_TRIED = 100

IsFree = Callable[[str], bool]


@dataclass(frozen=True)
class ListenRequest:
    """An address that a service should listen on."""

    what: str
    """The server, for example "gateway"."""
    listen: str
    """host:port; port 0 takes a free one, and empty means that nothing listens."""
    may_move: bool = False
    """Whether another port will do: nobody asked for this one."""

    @property
    def is_fixed(self) -> bool:
        """Whether it must be this very port."""
        return bool(self.listen) and not self.may_move and port_of(self.listen) != 0


def choose(
    requests: Iterable[ListenRequest], is_free: IsFree
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """For each request the address to listen on, and what the owner should know.

    Raises: IllegalState naming every address that is asked for and cannot be had.
    """
    requests = tuple(requests)
    taken = [request for request in requests if request.is_fixed and not is_free(request.listen)]
    if taken:
        names = " and ".join(f"{request.listen} ({request.what})" for request in taken)
        raise IllegalState(
            f"cannot listen on {names}: taken, or not an address of this host; stop what uses it,"
            " or choose another (--grpc-port, --http-port, listen and http_listen in mlxmesh.toml)"
        )
    chosen: dict[str, str] = {}
    notes: list[str] = []
    for request in requests:
        chosen[request.what] = _next_free(request, is_free) if request.may_move else request.listen
        if chosen[request.what] != request.listen:
            port, instead = port_of(request.listen), port_of(chosen[request.what])
            notes.append(
                f"port {port} is taken, so the {request.what} uses {instead or 'a free one'}"
            )
    return chosen, tuple(notes)


def _next_free(request: ListenRequest, is_free: IsFree) -> str:
    first = port_of(request.listen)
    if first == 0 or not request.listen:
        return request.listen
    for port in range(first, min(first + MAX_PORTS_TRIED, 65536)):
        if is_free(with_port(request.listen, port)):
            return with_port(request.listen, port)
    return with_port(request.listen, 0)


def port_of(listen: str) -> int:
    """The port of host:port; 0 where there is none."""
    return int(listen.rpartition(":")[2] or 0)


def with_port(listen: str, port: int) -> str:
    """The same host with another port."""
    return f"{listen.rpartition(':')[0]}:{port}"


def who_may_call(
    *, authentication: str, has_users: bool, listen: str, tls: bool, options: str = ""
) -> str:
    """Who may call the gateway at `listen`, as its authentication decides it.

    `options` are those that commands need to find the mesh.
    """
    if authentication == "required" or (authentication == "auto" and has_users):
        if tls:
            return "callers need a certificate of this mesh, or over HTTP a key or a session"
        return "callers need a key or a session: `mlxmesh keys`, `mlxmesh login`"
    if tls:
        return "callers need a certificate of this mesh: `mlxmesh certs`"
    if authentication == "off":
        return f"open to everybody who reaches {listen}, because authentication is off"
    create = f"`mlxmesh users create NAME --admin{options}`"
    if is_loopback(split_host_port(listen)[0]):
        return f"open to everybody on this machine: no users; {create} turns authentication on"
    return f"open to everybody on this machine, and to nobody else: no users; {create} adds one"


SERVICES = ("runtime", "model", "generation", "access", "jobs", "worker", "tools", "gateway")
"""In starting order."""
ACCESS, JOBS, WORKER, TOOLS = "access", "jobs", "worker", "tools"
STARTED_TOGETHER = {ACCESS: (ACCESS,), JOBS: (WORKER, JOBS), TOOLS: (TOOLS,)}
"""What runs only on meshes that use it, by what StartService calls it, which starts last: once it
serves, nobody asks for the others again."""
ON_USE = frozenset(name for group in STARTED_TOGETHER.values() for name in group)
_DATABASES = {ACCESS: "access.db", JOBS: "jobs.db", TOOLS: "tools.db"}
# A service ends its calls within its grace, and then closes what it has open.
STOP_MARGIN_S = 10.0


def uses_access(settings: AccessSettings) -> bool:
    """Whether there has been an access service."""
    return _has_database(settings, ACCESS)


def _has_database(settings: AccessSettings | JobsSettings | ToolsSettings, name: str) -> bool:
    """Whether the database of a service exists, or the settings name one."""
    return bool(settings.database_url) or (settings.data_dir / _DATABASES[name]).exists()


class ServiceSettings:
    """The settings of all services, as flags, environment and mlxmesh.toml make them."""

    def __init__(self, flags: Sequence[str]) -> None:
        """`flags` are those that every service gets. Raises: SettingsError."""
        self._flags = tuple(flags)
        self.of_runtime = load_settings(RuntimeSettings, flags)
        self.of_model = load_settings(ModelSettings, flags)
        self.of_generation = load_settings(GenerationSettings, flags)
        self.of_access = load_settings(AccessSettings, flags)
        self.of_jobs = load_settings(JobsSettings, flags)
        self.of_worker = load_settings(WorkerSettings, flags)
        self.of_tools = load_settings(ToolsSettings, flags)
        self.of_gateway = load_settings(GatewaySettings, flags)

    def uses_access(self) -> bool:
        """Whether the mesh uses the access service, now."""
        return uses_access(self.of_access)

    def used(self) -> Sequence[str]:
        """The services that the mesh uses, now, in starting order."""
        unused = set[str]()
        if not self.uses_access():
            unused.update(STARTED_TOGETHER[ACCESS])
        if not _has_database(self.of_jobs, JOBS):
            unused.update(STARTED_TOGETHER[JOBS])
        if not _has_database(self.of_tools, TOOLS):
            unused.update(STARTED_TOGETHER[TOOLS])
        return [name for name in SERVICES if name not in unused]

    def listens(self) -> Mapping[str, str]:
        """Where each service but the gateway listens."""
        return {
            "runtime": self.of_runtime.listen,
            "model": self.of_model.listen,
            "generation": self.of_generation.listen,
            ACCESS: self.of_access.listen,
            JOBS: self.of_jobs.listen,
            WORKER: self.of_worker.listen,
            TOOLS: self.of_tools.listen,
        }

    def stop_timeouts_s(self, grace_s: float | None = None) -> Mapping[str, float]:
        """How long each service may take to stop; `grace_s` shortens what its settings say."""
        graces = {
            "runtime": self.of_runtime.stop_grace_s,
            "model": self.of_model.drain_grace_s,
            "generation": self.of_generation.drain_grace_s,
            ACCESS: self.of_access.drain_grace_s,
            JOBS: self.of_jobs.drain_grace_s,
            WORKER: self.of_worker.stop_grace_s,
            TOOLS: self.of_tools.drain_grace_s,
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
            ListenRequest(name, where)
            for name, where in self.listens().items()
            if port_of(where) and name in self.used()
        ]
        return (
            ListenRequest("gateway", listen, grpc_port is None and self._is_default("listen")),
            ListenRequest("HTTP", http, http_port is None and self._is_default("http_listen")),
            *others,
        )

    def _is_default(self, name: str) -> bool:
        found = {one.name: one.source for one in sources(SETTINGS["gateway"], self._flags)}
        return found[name] == "default"

"""Where the Consul agent of this host is and how to connect to it: the table `[consul]`."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from mlxmesh_shared.settings.fields import FullPath, Seconds


def _agent(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"must be host:port, for example 127.0.0.1:8500, not {address}")
    return address


# Both DNS and Consul's enterprise rules for names allow it.
SafeName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]


class ConsulSettings(BaseModel):
    """The Consul agent of this host, for the registry and the configuration store."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, defer_build=True
    )

    address: Annotated[str, AfterValidator(_agent)] = "127.0.0.1:8500"
    """The HTTP (with consul.ca, HTTPS) address of this host's Consul agent, host:port."""
    token: SecretStr = SecretStr("")
    """The ACL token. Set it in the environment: other users of the host can read flags."""
    datacenter: Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,64}$")] = ""
    """The datacenter in which to look up instances; empty for the agent's own."""
    prefix: SafeName = "mlxmesh"
    """The prefix of all names of services and keys; two meshes in one Consul need two prefixes."""
    ca: FullPath | None = None
    """The authority that verifies the agent's certificate; setting it turns HTTPS on."""
    cert: FullPath | None = None
    """The client certificate for the agent; needs consul.key."""
    key: FullPath | None = None
    """The key of consul.cert."""
    check_interval_s: Seconds = 2.0
    """How often the agent checks an instance's health, and an instance its registration."""
    check_tls: bool | None = None
    """Whether the agent's health checks use TLS; by default if the instances do (tls_dir)."""

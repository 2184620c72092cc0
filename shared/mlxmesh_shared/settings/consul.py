"""Where the Consul agent is and how to speak to it; used with `registry = "consul"`."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr


def _agent(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"must be host:port, for example 127.0.0.1:8500, not {address}")
    return address


FullPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# What DNS and Consul's enterprise rules for names both take.
SafeName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]


class ConsulSettings(BaseModel):
    """The Consul agent of this host; a part of every process's settings."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    consul_address: Annotated[str, AfterValidator(_agent)] = "127.0.0.1:8500"
    """The HTTP (with consul_ca, HTTPS) address of this host's Consul agent, host:port."""
    consul_token: SecretStr = SecretStr("")
    """The ACL token; better in the environment than in a flag, which others on the host can see."""
    consul_datacenter: Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,64}$")] = ""
    """The datacenter to look for instances in; empty for the agent's own."""
    consul_prefix: SafeName = "mlxmesh"
    """Begins the name of each service and key: two meshes in one Consul need two prefixes."""
    consul_ca: FullPath | None = None
    """Certificates that the agent's own is checked with; setting it means HTTPS."""
    consul_cert: FullPath | None = None
    """The certificate to show to the agent, with consul_key."""
    consul_key: FullPath | None = None
    """The key of consul_cert."""
    consul_check_interval_s: Seconds = 2.0
    """How often the agent checks an instance's health, and the instance its registration."""
    consul_check_tls: bool | None = None
    """Whether the agent's health checks use TLS; by default where the instances do (tls_dir)."""

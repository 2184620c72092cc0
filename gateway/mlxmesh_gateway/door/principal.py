"""Who makes a public call, made once by the door from verified evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mlxmesh_shared.rpc.caller import owner_id
from mlxmesh_shared.tls.identity import Role


class Kind(Enum):
    """How a principal was verified."""

    ANONYMOUS = "anonymous"
    CERTIFICATE = "certificate"
    KEY = "key"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The caller of a public call.

    What the caller merely claims subdivides what was verified, and never extends it.
    """

    kind: Kind
    identity: str
    """Verified: the SPIFFE id of the certificate, `key:ID` or `user:NAME`; empty for anonymous."""
    role: Role.ValueType
    """The role that the contracts know; ROLE_UNSPECIFIED for none."""
    claimed_name: str = ""
    """Unverified: 1 to 128 of A-Z a-z 0-9 . _ : -; empty if the caller claims none."""
    host: str
    """The host of the connection."""
    user: str = ""
    """The user of a key or a session."""
    team: str = ""
    """That user's team."""
    key_id: str = ""
    """The id of the key."""
    models: tuple[str, ...] = ()
    """Patterns of the models that it may use; empty for all."""

    @property
    def known(self) -> bool:
        """Whether anything tells it from other callers of its host."""
        return bool(self.identity or self.claimed_name)

    @property
    def id(self) -> str:
        """Owns what its calls start; independent of the address, which a client may change."""
        return owner_id(self.identity, self.claimed_name)

    @property
    def share(self) -> str:
        """The name that limits and fair shares count: of 1 to 128 of A-Z a-z 0-9 . _ : -

        Keys and users count by what was verified, whatever they claim. Others count by their
        claimed name, and callers without one share their host's.
        """
        if self.kind in (Kind.KEY, Kind.USER):
            return self.identity.replace("@", "::")
        return self.claimed_name or self.host

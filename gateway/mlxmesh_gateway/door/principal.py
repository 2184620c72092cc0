"""Who makes a public call, made once by the door from verified evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hashlib import sha256

from mlxmesh_shared.rpc.caller import owner_id
from mlxmesh_shared.tls.identity import Role

MAX_SHARE_CHARACTERS = 128


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
    authentication_is_off: bool = False
    """Whether the settings say that nobody has to authenticate."""

    @property
    def known(self) -> bool:
        """Whether anything tells it from other callers of its host."""
        return bool(self.identity or self.claimed_name)

    @property
    def is_admin(self) -> bool:
        """Whether it may do everything."""
        return self.role == Role.ROLE_ADMIN

    @property
    def is_authenticated(self) -> bool:
        """Whether it presented something that proves who it is."""
        return self.kind is not Kind.ANONYMOUS

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
            return _shortened(self.identity.replace("@", "::"))
        if self.claimed_name.startswith(("key:", "user:")):
            # It must not take part of the share of that key or user.
            return _shortened(f"name:{self.claimed_name}")
        return self.claimed_name or self.host


def _shortened(name: str) -> str:
    if len(name) <= MAX_SHARE_CHARACTERS:
        return name
    return f"{name[: MAX_SHARE_CHARACTERS - 33]}:{sha256(name.encode()).hexdigest()[:32]}"

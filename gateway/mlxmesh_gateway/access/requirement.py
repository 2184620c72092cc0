"""When callers must authenticate."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Literal

from mlxmesh_gateway.access.policies import Policies
from mlxmesh_shared.host.host_port import is_loopback
from mlxmesh_shared.tls.identity import Role

Setting = Literal["auto", "required", "off"]


class Requirement:
    """Whether callers must authenticate, and what those without credentials may do."""

    def __init__(
        self,
        policies: Policies,
        *,
        undecided: Callable[[], bool] = lambda: False,
        setting: Setting,
        listens: Iterable[str],
        tls: bool,
        certificates_requested: bool = True,
    ) -> None:
        """undecided: whether there may be policies that were never seen.

        listens: host:port of each listener.

        certificates_requested: whether clients must present certificates where TLS is on.
        """
        self._policies = policies
        self._undecided = undecided
        self._setting = setting
        self._beyond_loopback = any(not is_loopback(one.rpartition(":")[0]) for one in listens)
        self.tls = tls
        self._certificates_requested = certificates_requested

    @property
    def on(self) -> bool:
        """Whether callers must authenticate."""
        if self._setting != "auto":
            return self._setting == "required"
        if self._beyond_loopback or self._policies.authentication_required:
            return True
        return self._undecided()

    @property
    def is_off(self) -> bool:
        """Whether the settings say that nobody has to authenticate, even if there are users."""
        return self._setting == "off"

    @property
    def checks_credentials(self) -> bool:
        """Whether keys and access tokens count; without users there are none.

        Clients of other protocols send a key in any case, which means nothing then.
        """
        return not self.is_off and self._policies.authentication_required

    @property
    def undecided(self) -> bool:
        """Whether it is not known yet if there are users."""
        return self._setting == "auto" and self._undecided()

    @property
    def knows_no_credentials_yet(self) -> bool:
        """Whether credentials may count that cannot be verified yet."""
        return self._setting != "off" and self._undecided()

    def anonymous_role(self, host: str) -> Role.ValueType:
        """The role of a caller from a host who presents nothing."""
        if self.on:
            return Role.ROLE_ADMIN if self._may_begin(host) else Role.ROLE_UNSPECIFIED
        if not self.tls:
            return Role.ROLE_ADMIN
        return Role.ROLE_UNSPECIFIED if self._certificates_requested else Role.ROLE_CLIENT

    def _may_begin(self, host: str) -> bool:
        """Whether the caller may create the first user: there is no certificate for that."""
        may_have_users = self._policies.authentication_required or self._undecided()
        return self._setting == "auto" and not (self.tls or may_have_users) and is_this_host(host)


def is_this_host(host: str) -> bool:
    """Whether an address is this machine's."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return not address.is_unspecified

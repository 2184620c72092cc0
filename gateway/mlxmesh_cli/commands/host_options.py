"""The options of `mlxmesh up` for a mesh of several hosts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mlxmesh_cli.commands.failures import fail, reported_errors
from mlxmesh_cli.commands.policy_options import parse_seconds
from mlxmesh_cli.commands.session import run
from mlxmesh_cli.screen.status_line import StatusLine

if TYPE_CHECKING:
    from mlxmesh_launcher.hosts.preparing import Choices

STDIN = "-"
MIN_LIFETIME_S, MAX_LIFETIME_S = 60, 90 * 86_400


@dataclass(frozen=True, repr=False)
class HostOptions:
    """As given; without any, a data directory stays what it is."""

    hosts: bool
    join: str | None
    token: str | None
    advertise: str | None
    consul: Path | None
    consul_address: str | None
    join_port: int | None
    certificates_for: str | None

    def prepare(self, data_dir: Path, *, registry: str | None, tls: bool, json: bool) -> bool:
        """Makes the data directory that of a mesh of several hosts, if so asked.

        Returns whether it is one. Ends the command with an error for options that do not fit.
        """
        if self.hosts or self.join is not None:
            self._check(registry)
            self._prepare(data_dir, json=json)
            return True
        if self.token or self.advertise or self.consul or self.join_port or self.certificates_for:
            fail(
                "--token, --advertise, --consul, --join-port and --certificates-for need --hosts or"
                " --join HOST",
                exit_code=2,
            )
        return self._is_prepared(data_dir, registry=registry, tls=tls)

    def _check(self, registry: str | None) -> None:
        if self.hosts and self.join is not None:
            fail("--hosts begins a mesh and --join joins one; use one of them", exit_code=2)
        if registry not in (None, "consul"):
            fail("a mesh of several hosts uses Consul; leave --registry out", exit_code=2)
        if self.consul is not None and self.consul_address is not None:
            fail(
                "--consul names a program to run and --consul-address an agent that runs already;"
                " use one of them",
                exit_code=2,
            )
        if self.join is not None and not self.token:
            fail("--join needs --token; `mlxmesh hosts invite` prints one", exit_code=2)
        if self.join is not None and self.join_port is not None:
            fail("the port to join on belongs to --join HOST:PORT", exit_code=2)
        if self.join is not None and self.certificates_for is not None:
            fail("--certificates-for belongs to --hosts: the first host issues them", exit_code=2)
        if self.hosts and self.token:
            fail("--token belongs to --join HOST", exit_code=2)

    def _prepare(self, data_dir: Path, *, json: bool) -> None:
        # Not at the top: certificates and gRPC are slow to import.
        from mlxmesh_launcher.hosts.join_token import parse_token
        from mlxmesh_launcher.hosts.preparing import join_mesh, prepare_first

        if self.join is None:
            with reported_errors():
                prepare_first(data_dir, self._choices())
            return
        given = sys.stdin.readline() if self.token == STDIN else self.token or ""
        with reported_errors():
            token = parse_token(given)
        with StatusLine(err=json) as status:
            run(join_mesh(data_dir, self.join, token, self._choices(), status.update))

    def _choices(self) -> Choices:
        from mlxmesh_launcher.hosts.preparing import Choices

        return Choices(
            address=self.advertise,
            consul=self.consul,
            consul_address=self.consul_address,
            join_port=self.join_port,
            certificate_lifetime_s=self._certificate_lifetime_s(),
        )

    def _certificate_lifetime_s(self) -> float | None:
        if self.certificates_for is None:
            return None
        seconds = parse_seconds(self.certificates_for, "--certificates-for")
        if not MIN_LIFETIME_S <= seconds <= MAX_LIFETIME_S:
            raise typer.BadParameter("must be from 1m to 90d", param_hint="--certificates-for")
        return seconds

    def _is_prepared(self, data_dir: Path, *, registry: str | None, tls: bool) -> bool:
        from mlxmesh_launcher.hosts.state import read_state

        with reported_errors():
            state = read_state(data_dir)
        if state is None:
            return False
        if registry not in (None, "consul") or self.consul_address is not None:
            fail(
                f"{data_dir} belongs to a mesh of several hosts, whose registry is in its"
                " mlxmesh.toml; leave --registry and --consul-address out",
                exit_code=2,
            )
        if tls and not state.is_first:
            fail("the certificates of this host come from the first host; leave --tls out")
        return True

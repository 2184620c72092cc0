"""Commands about certificates: create an authority; issue, rotate and list certificates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.failures import fail, reported_errors
from mlxmesh_cli.commands.session import DataDir, Json
from mlxmesh_cli.mesh.location import resolve_data_dir
from mlxmesh_cli.screen.output import print_json, print_view

if TYPE_CHECKING:
    from mlxmesh_launcher.certificate_directory import IssuedCertificate

certs = typer.Typer(help="Manage certificates for a mesh with TLS.", no_args_is_help=True)

TlsDir = Annotated[
    Path | None,
    typer.Option(
        "--dir", help="Directory of the certificates.  [default: `tls` in the data directory]"
    ),
]
Roles = Annotated[list[str] | None, typer.Argument(help="Roles.  [default: all]")]


@certs.command("init", epilog="Example: mlxmesh certs init --dir /etc/mlxmesh/tls")
def init(directory: TlsDir = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Create a certificate authority, and a certificate for each role."""
    from mlxmesh_launcher.authority import Authority
    from mlxmesh_shared.tls.identity import ROLES

    path = _tls_dir(directory, data_dir)
    with reported_errors():
        issued = Authority.create(path).renew(ROLES)
    _show(issued, json)


@certs.command("issue", epilog="Example: mlxmesh certs issue gateway --host mesh.example --days 30")
def issue(
    role: Annotated[
        str,
        typer.Argument(
            help="Role: gateway, generation, model, access, jobs, worker, tools, runtime, engine,"
            " client, admin or consul."
        ),
    ],
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Host name or address of the server; may be repeated."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=825, help="Lifetime in days.")] = 90,
    directory: TlsDir = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Issue a new certificate for one role."""
    from mlxmesh_launcher.authority import Authority

    path = _tls_dir(directory, data_dir)
    with reported_errors():
        issued = Authority(path).issue(role, hosts=host or (), lifetime=timedelta(days=days))
    _show([issued], json)


@certs.command("rotate", epilog="Example: mlxmesh certs rotate gateway generation")
def rotate(
    roles: Roles = None, directory: TlsDir = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Reissue certificates for the same hosts. A running mesh reloads them."""
    from mlxmesh_launcher.authority import Authority

    path = _tls_dir(directory, data_dir)
    with reported_errors():
        authority = Authority(path)
        issued = authority.renew(roles or authority.issued())
    _show(issued, json)


@certs.command("show", epilog="Example: mlxmesh certs show --json")
def show(directory: TlsDir = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List the certificates with their roles and expiry dates."""
    from mlxmesh_launcher.certificate_directory import read_certificates

    path = _tls_dir(directory, data_dir)
    with reported_errors():
        found = read_certificates(path)
    if not found:
        fail(f"no certificates in {path}; create them with `mlxmesh certs init`")
    _show(found, json)


def _tls_dir(directory: Path | None, data_dir: Path | None) -> Path:
    return (directory or resolve_data_dir(data_dir) / "tls").expanduser().absolute()


def _show(certificates: list[IssuedCertificate], json: bool) -> None:
    if json:
        print_json([_row(each) for each in certificates])
        return
    from mlxmesh_cli.screen.grid import Column, Grid

    table = Grid(
        Column("role"),
        Column("days left", right=True),
        Column("hosts", drop=1),
        Column("file", drop=2),
    )
    for each in certificates:
        hosts = ", ".join(each.hosts)
        table.add(each.role, str(_days_left(each)), hosts, str(each.path))
    print_view(table)


def _row(certificate: IssuedCertificate) -> dict[str, object]:
    return {
        "role": certificate.role,
        "expires": certificate.expires.isoformat(timespec="seconds"),
        "days_left": _days_left(certificate),
        "hosts": list(certificate.hosts),
        "path": str(certificate.path),
    }


def _days_left(certificate: IssuedCertificate) -> int:
    return (certificate.expires - datetime.now(UTC)).days

"""Commands that make the host run a mesh: install, uninstall."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from mlxmesh_cli.commands.confirmation import Yes, confirm
from mlxmesh_cli.commands.failures import fail, reported_errors
from mlxmesh_cli.commands.session import DataDir, Json
from mlxmesh_cli.commands.up import (
    GrpcPort,
    HttpPort,
    Models,
    Replicas,
    Tls,
    UpOptions,
    require_packages,
)
from mlxmesh_cli.installation.service import WHOLE_MESH, Scope, service_name
from mlxmesh_cli.screen.output import print_json, say

if TYPE_CHECKING:
    from mlxmesh_cli.installation.description import Wanted
    from mlxmesh_cli.installation.installer import Installer, Plan
    from mlxmesh_cli.installation.service import HostServices, Service

START_TIMEOUT_S = 1800.0

System = Annotated[
    bool,
    typer.Option(
        "--system/--user", help="A service of the host, started at boot, or of you, at login."
    ),
]
What = Annotated[
    str,
    typer.Option(
        "--service",
        help="all, or one service for a mesh over several hosts: gateway, generation, model,"
        " access, jobs, worker, tools or runtime.",
    ),
]
RunAs = Annotated[
    str,
    typer.Option(
        "--run-as", help="Account of a system service.  [default: one that systemd makes for it]"
    ),
]
Environment = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME=VALUE", help="Environment variable; may be repeated."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the file and the commands; change nothing.")
]


def install(
    system: System = False,
    service: What = WHOLE_MESH,
    run_as: RunAs = "",
    env: Environment = None,
    grpc_port: GrpcPort = None,
    http_port: HttpPort = None,
    replicas: Replicas = None,
    model: Models = None,
    tls: Tls = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Run the mesh as a service of this host: systemd on Linux, launchd on macOS.

    It starts now and again after a crash, a boot or a login. Settings belong into mlxmesh.toml in
    its data directory. A second installation with the same options changes nothing.
    """
    from mlxmesh_cli.installation.description import SERVICES, Wanted

    if service not in SERVICES:
        fail(f"--service must be one of {', '.join(SERVICES)}", exit_code=2)
    is_whole = service == WHOLE_MESH
    if is_whole:
        require_packages()
    options = UpOptions(
        data_dir=Path(),
        grpc_port=grpc_port,
        http_port=http_port,
        replicas=replicas,
        models=tuple(model or ()),
        flags=(),
        tls=tls,
    )
    arguments = options.launcher_arguments()
    if arguments and not is_whole:
        fail("ports, models and --tls are options of the whole mesh; use mlxmesh.toml", exit_code=2)
    wanted = Wanted(
        what=service,
        scope=_scope(system),
        data_dir=data_dir,
        account=run_as,
        arguments=tuple(arguments),
        environment=_assignments(env or []),
    )
    with reported_errors():
        _install(wanted, dry_run=dry_run, yes=yes, json=json)


def _scope(system: bool) -> Scope:
    return Scope.SYSTEM if system else Scope.USER


def _assignments(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, value in pairs:
        if not name.isidentifier() or not equals or "\n" in value:
            fail(f"--env {name!r} must be NAME=VALUE, on one line", exit_code=2)
    return {name: value for name, _, value in pairs}


def _install(wanted: Wanted, *, dry_run: bool, yes: bool, json: bool) -> None:
    from mlxmesh_cli.installation.description import describe
    from mlxmesh_cli.installation.host import SubprocessRunner, host_services
    from mlxmesh_cli.installation.installer import Installer

    runner = SubprocessRunner()
    described = describe(wanted, runner)
    host = host_services(wanted.scope)
    installer = Installer(host, runner, described.name)
    plan = installer.plan(described)
    if dry_run:
        _print_plan(plan, host, described, json=json)
        return
    _check_root(wanted.scope, "install")
    _check_no_other_mesh(installer, described)
    if plan.changes and not json:
        say(f"{'new file' if plan.is_new else 'changed file'}: {plan.path}", bold=True)
        typer.echo(plan.content.decode() if plan.is_new else plan.diff())
    question = "write it and start the service" if plan.is_new else "overwrite it and restart"
    if plan.changes and not confirm(f"{question}?", yes=yes):
        fail("nothing was changed", reason="CANCELLED")
    # systemd makes the state directory of a system service.
    own_dir = described.data_dir if wanted.scope == Scope.USER else None
    did = installer.install(plan, own_dir)
    _report(installer, host, described, did=did, json=json)


def _print_plan(plan: Plan, host: HostServices, service: Service, *, json: bool) -> None:
    commands = [" ".join(command) for command in host.start(service.name)]
    if json:
        content = plan.content.decode()
        facts = {"path": str(plan.path), "changes": plan.changes, "content": content}
        print_json({**facts, "commands": commands})
        return
    state = "new" if plan.is_new else ("changed" if plan.changes else "unchanged")
    typer.echo(f"# {plan.path} ({state})\n{plan.content.decode()}\n# then:")
    for command in commands:
        typer.echo(command)


def _check_root(scope: Scope, command: str) -> None:
    if scope == Scope.SYSTEM and os.geteuid() != 0:
        fail(
            f"a system service needs root: `sudo mlxmesh {command} --system`, or use --user",
            reason="NOT_ROOT",
        )


def _check_no_other_mesh(installer: Installer, service: Service) -> None:
    from mlxmesh_cli.mesh.location import with_data_dir
    from mlxmesh_launcher.record import read_record

    if service.what != WHOLE_MESH or read_record(service.data_dir) is None:
        return
    if not installer.is_running():
        down = with_data_dir("down", service.data_dir)
        fail(f"a mesh already runs in {service.data_dir}; stop it with `{down}` first")


def _report(
    installer: Installer, host: HostServices, service: Service, *, did: bool, json: bool
) -> None:
    from mlxmesh_cli.installation.waiting import Serving, until_serving
    from mlxmesh_cli.screen.status_line import StatusLine

    with StatusLine(err=json) as status:
        status.update(f"waiting until {service.name} serves")
        found: Serving = until_serving(
            installer, service, timeout_s=START_TIMEOUT_S, logs=host.logs(service.name)
        )
    facts: dict[str, Any] = {"service": service.name, "path": str(installer.path), "changed": did}
    if json:
        print_json({**facts, "address": found.gateway, "http": found.http})
        return
    typer.echo(f"{service.name} runs" + ("" if did else "; nothing was to be changed"))
    if found.gateway:
        typer.echo(f"serving on {found.gateway}")
    if found.console:
        typer.echo(f"console: {found.console}")
    typer.echo(f"logs: `{host.logs(service.name)}`")
    if service.scope == Scope.USER and host.manager == "systemd":
        typer.echo("it ends at your logout unless you run `loginctl enable-linger`")


def uninstall(
    system: System = False,
    service: What = WHOLE_MESH,
    purge_data: Annotated[
        bool,
        typer.Option(
            "--purge-data", help="Delete the data directory too: models, users, jobs, settings."
        ),
    ] = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Drain and stop the service that `mlxmesh install` started, and remove its file.

    The data directory stays unless --purge-data is given.
    """
    from mlxmesh_cli.installation.host import SubprocessRunner, host_services
    from mlxmesh_cli.installation.installer import Installer
    from mlxmesh_cli.installation.purge import purge, purged_dir

    scope = _scope(system)
    _check_root(scope, "uninstall")
    with reported_errors():
        installer = Installer(host_services(scope), SubprocessRunner(), service_name(service))
        doomed = purged_dir(scope, data_dir) if purge_data else None
        if doomed is None and not installer.path.exists():
            _fail_not_installed(installer)
        if not confirm(_what_goes(installer, doomed), yes=yes):
            fail("nothing was changed", reason="CANCELLED")
        removed = installer.uninstall()
        deleted = doomed is not None and purge(doomed)
    if not removed and not deleted:
        _fail_not_installed(installer)
    if json:
        facts = {"removed": str(installer.path) if removed else None}
        print_json({**facts, "deleted": str(doomed) if deleted else None})
        return
    if removed:
        typer.echo(f"stopped, and removed {installer.path}")
    if deleted:
        typer.echo(f"deleted {doomed}")


def _fail_not_installed(installer: Installer) -> NoReturn:
    fail(f"there is no {installer.path}; nothing was changed", reason="NOT_INSTALLED")


def _what_goes(installer: Installer, doomed: Path | None) -> str:
    purge = f", and delete {doomed} with everything in it" if doomed is not None else ""
    return f"stop the service and remove {installer.path}{purge}?"

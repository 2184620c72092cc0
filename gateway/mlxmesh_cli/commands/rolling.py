"""Commands that replace instances without failed calls: drain, restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.completion import complete_instance
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import DataDir, Json, fail_without_mesh, run, tls_of
from mlxmesh_cli.mesh.location import resolve_data_dir, settings_flags
from mlxmesh_cli.screen.output import print_json

if TYPE_CHECKING:
    from mlxmesh_shared.registry import Instance, Registry
    from mlxmesh_shared.tls import CertificateSource

POLL_S = 0.1
CALL_TIMEOUT_S = 10.0
Report = Callable[[str], None]
_FIRST_USES = {"access": "users create", "tools": "mcp add"}


class Service(StrEnum):
    """Services that can be restarted."""

    RUNTIME = "runtime"
    MODEL = "model"
    GENERATION = "generation"
    ACCESS = "access"
    JOBS = "jobs"
    WORKER = "worker"
    TOOLS = "tools"
    GATEWAY = "gateway"


def restart(
    services: Annotated[
        list[Service] | None, typer.Argument(help="Services to restart.  [default: all]")
    ] = None,
    rolling: Annotated[
        bool, typer.Option("--rolling", help="Restart one process at a time; always on.")
    ] = True,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Restart the services of a mesh one at a time, without failed calls.

    Each new process serves before the old one drains. A runtime is replaced together with its
    engines, so the loaded models are in memory twice for a while.
    """
    directory = resolve_data_dir(data_dir)
    names = [service.value for service in services or ()]
    with _progress(show=not json) as report:
        done = run(_restart(directory, names, report))
    if missing := [name for name in names if name not in done]:
        first_use = _FIRST_USES.get(missing[0], "jobs start")
        fail(f"no {missing[0]} service runs here; `mlxmesh {first_use}` starts the first one")
    if json:
        print_json({"restarted": done})


def drain(
    instance: Annotated[
        str,
        typer.Argument(
            help="Instance id, or a unique prefix of it.", autocompletion=complete_instance
        ),
    ],
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for its end.")
    ] = 120.0,
    wait: Annotated[bool, typer.Option(help="Wait until it has ended, or return at once.")] = True,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Drain one instance: it accepts no new calls, lets running ones finish or move, and ends.

    Its supervisor then starts another one: the launcher for a service, the runtime for an engine.
    """
    started_s = time.monotonic()
    with _progress(show=not json) as report:
        found = run(_drain(resolve_data_dir(data_dir), instance, timeout_s if wait else 0, report))
    if json:
        facts = {"service": found.service, "address": found.address, "pid": found.pid}
        waited_s = round(time.monotonic() - started_s, 3)
        print_json({"instance_id": found.instance_id, **facts, "gone": wait, "waited_s": waited_s})
    elif not wait:
        typer.echo(f"{found.instance_id} is draining")


@contextmanager
def _progress(*, show: bool) -> Generator[Report]:
    """Reports progress on one changing line, or one line per step without a terminal."""
    from rich.console import Console

    console = Console(stderr=True, quiet=not show)
    with console.status("") as status:
        yield status.update if console.is_terminal else console.print


async def _restart(data_dir: Path, services: list[str], report: Report) -> list[str]:
    """Restarts services; returns the names of the replaced processes, in order."""
    from mlxmesh.control.v1 import launcher_pb2 as pb
    from mlxmesh_cli.mesh.supervisor import launcher_of
    from mlxmesh_launcher.record import read_record

    record = read_record(data_dir)
    if record is None:
        fail_without_mesh(data_dir)
    if not record.control:
        fail("the mesh is still starting; try again once `mlxmesh status` shows it as serving")
    done: list[str] = []
    async with launcher_of(record, tls_of(data_dir)) as launcher:
        async for step in launcher.Restart(pb.RestartRequest(services=services)):
            phase = pb.RestartPhase.Name(step.phase).removeprefix("RESTART_PHASE_").lower()
            report(f"{step.name}: {phase}")
            if step.phase == pb.RESTART_PHASE_DONE:
                done.append(step.name)
    return done


async def _drain(data_dir: Path, name: str, timeout_s: float, report: Report) -> Instance:
    """Drains an instance and returns it; waits for its end unless timeout_s is 0."""
    from mlxmesh_cli.mesh.location import SERVICES
    from mlxmesh_shared.registry import open_registry
    from mlxmesh_shared.settings import MeshSettings, load_settings
    from mlxmesh_shared.tls import CertificateSource

    files = tls_of(data_dir)
    certificates = CertificateSource(files) if files is not None else None
    registry = open_registry(load_settings(MeshSettings, settings_flags(data_dir)), certificates)
    try:
        known = [one for service in SERVICES for one in await registry.resolve(service)]
        if not known:
            fail_without_mesh(data_dir)
        found = chosen(known, name)
        await _request_drain(found, certificates)
        if timeout_s:
            await _until_gone(registry, found, timeout_s, report)
        return found
    finally:
        await registry.close()


async def _request_drain(found: Instance, certificates: CertificateSource | None) -> None:
    from mlxmesh.control.v1.control_pb2 import DrainRequest
    from mlxmesh.control.v1.control_pb2_grpc import ControlServiceStub
    from mlxmesh_shared.errors import DeadlineExceeded
    from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel

    async with open_channel(
        found.address, role=found.service, certificates=certificates, timeouts=LONG_TIMEOUTS
    ) as channel:
        control = ControlServiceStub(channel)
        try:
            # Drain is idempotent, so waiting for a busy process to connect is safe.
            await control.Drain(DrainRequest(), timeout=CALL_TIMEOUT_S, wait_for_ready=True)
        except DeadlineExceeded:
            fail(
                f"{found.instance_id} does not respond at {found.address}; end process {found.pid}"
            )


def chosen(known: list[Instance], name: str) -> Instance:
    """The instance with this id or unique prefix; ends the command without one."""
    matching = [one for one in known if one.instance_id.startswith(name)]
    exact = [one for one in matching if one.instance_id == name]
    ids = ", ".join(one.instance_id for one in matching or known) or "none"
    if not matching:
        fail(f"no instance {name!r}; available: {ids}")
    if len(exact or matching) > 1:
        fail(f"{name!r} is ambiguous; it matches: {ids}")
    return (exact or matching)[0]


async def _until_gone(
    registry: Registry, found: Instance, timeout_s: float, report: Report
) -> None:
    """Waits until record and process are gone; a successor may have the same id."""
    deadline_s = time.monotonic() + timeout_s
    reported = ""
    while remains := await _remains(registry, found):
        if time.monotonic() > deadline_s:
            fail(
                f"{found.instance_id} has not ended after {timeout_s:g} s: {remains}; it continues"
                f" to drain, see `mlxmesh logs {found.service}`"
            )
        if remains != reported:
            report(f"{found.instance_id}: {remains}")
            reported = remains
        await asyncio.sleep(POLL_S)
    report(f"{found.instance_id}: gone")


async def _remains(registry: Registry, found: Instance) -> str:
    """What remains of an instance, in words; empty when it is gone."""
    present: Any = await registry.resolve(found.service)
    if any((one.instance_id, one.pid) == (found.instance_id, found.pid) for one in present):
        return "draining"
    return f"process {found.pid} finishes its calls" if _runs_here(found) else ""


def _runs_here(found: Instance) -> bool:
    """Whether its process runs; False for processes of other hosts."""
    import psutil

    from mlxmesh_shared.host.host_port import is_loopback

    if not is_loopback(found.address.rpartition(":")[0]):
        return False
    try:
        return psutil.Process(found.pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""Hosts, processes, settings and log records as text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from mlxmesh.control.v1.process_pb2 import LogRecord, Setting
from mlxmesh.telemetry.v1.system_pb2 import Host, Process
from mlxmesh_cli.screen.grid import Column, Grid

_MB = 10**6
_GB = 10**9


def hosts_table(hosts: Sequence[Host]) -> Grid:
    """One row per host."""
    table = Grid(
        Column("host"),
        Column("platform", drop=3),
        Column("cores", drop=4, right=True),
        Column("load", drop=2, right=True),
        Column("memory free", right=True),
        Column("disk free", drop=1, right=True),
        Column("devices", drop=5),
    )
    for host in hosts:
        disk = min(host.disks, key=lambda one: one.free_bytes, default=None)
        table.add(
            host.name,
            host.platform,
            str(host.cores),
            f"{host.load:.2f}",
            f"{host.memory_available_bytes / _GB:.1f} of {host.memory_total_bytes / _GB:.1f} GB",
            f"{disk.free_bytes / _GB:.1f} GB" if disk is not None else "",
            ", ".join(f"{one.kind} {one.name}" for one in host.devices),
        )
    return table


def processes_table(processes: Sequence[Process]) -> Grid:
    """One row per process."""
    table = Grid(
        Column("service"),
        Column("instance"),
        Column("host", drop=3),
        Column("pid", drop=2, right=True),
        Column("memory", right=True),
        Column("cpu", drop=1, right=True),
        Column("threads", drop=4, right=True),
        Column("files", drop=5, right=True),
        Column("tasks", drop=6, right=True),
        Column("failure", rare=True),
    )
    for one in processes:
        details = one.details
        table.add(
            one.service,
            one.instance_id,
            one.host,
            str(details.pid or ""),
            f"{details.resident_bytes / _MB:.0f} MB" if details.resident_bytes else "",
            f"{details.cpu_s:.0f} s" if details.pid else "",
            str(details.threads or ""),
            str(details.open_files or ""),
            str(details.tasks or ""),
            one.failure.reason,
        )
    return table


def settings_table(settings: Sequence[Setting]) -> Grid:
    """One row per setting."""
    table = Grid(
        Column("setting"), Column("value"), Column("source", drop=1), Column("default", drop=2)
    )
    for one in settings:
        source = f"{one.source} {one.source_name}".strip()
        table.add(f"{one.section}.{one.name}", one.value, source, one.default)
    return table


def record_line(record: LogRecord) -> str:
    """A log record, as processes write it on a terminal."""
    time = record.time.ToDatetime(tzinfo=UTC).astimezone()
    fields = "".join(f" {name}={value}" for name, value in sorted(record.fields.items()))
    line = f"{time:%H:%M:%S} {record.level.upper():7} {record.component} {record.message}{fields}"
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in line)

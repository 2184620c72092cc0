"""Merges what processes and runtimes tell into hosts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlxmesh.control.v1.process_pb2 import GetProcessResponse
from mlxmesh.runtime.v1.runtime_pb2 import GetRuntimeInfoResponse
from mlxmesh.telemetry.v1 import system_pb2 as wire
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.error_status import to_failure

HOST = "host"
"""The name of an instance's host in its metadata."""


def process_of(instance: Instance, answer: GetProcessResponse | MeshError) -> wire.Process:
    """A process with what it told, or why it did not."""
    process = wire.Process(
        service=instance.service,
        instance_id=instance.instance_id,
        host=instance.metadata.get(HOST, ""),
        address=instance.address,
    )
    if isinstance(answer, MeshError):
        process.failure.CopyFrom(to_failure(answer))
    else:
        process.details.CopyFrom(answer)
        process.host = answer.host or process.host
    return process


def hosts_of(
    processes: Iterable[wire.Process],
    runtimes: Sequence[tuple[Instance, GetRuntimeInfoResponse]],
) -> list[wire.Host]:
    """Each host once, with the devices of its runtimes and the disks of its processes."""
    hosts: dict[str, wire.Host] = {}
    for process in processes:
        if process.host:
            host = hosts.setdefault(process.host, wire.Host(name=process.host))
            if process.HasField("details"):
                _add_process(host, process.details)
    for instance, info in runtimes:
        name = info.host or instance.metadata.get(HOST, "")
        host = hosts.setdefault(name, wire.Host(name=name))
        host.platform, host.cores = info.platform or host.platform, info.cores or host.cores
        host.devices.append(_device(info))
    return [hosts[name] for name in sorted(hosts)]


def _add_process(host: wire.Host, details: GetProcessResponse) -> None:
    host.platform = host.platform or details.platform
    host.cores = host.cores or details.cores
    # What the last one said: they look at the same moment.
    host.load = details.load
    host.memory_total_bytes = details.memory_total_bytes or host.memory_total_bytes
    host.memory_available_bytes = details.memory_available_bytes or host.memory_available_bytes
    host.swap_used_bytes = details.swap_used_bytes
    if details.data_dir and all(disk.path != details.data_dir for disk in host.disks):
        host.disks.add(
            path=details.data_dir,
            total_bytes=details.disk_total_bytes,
            free_bytes=details.disk_free_bytes,
        )


def _device(info: GetRuntimeInfoResponse) -> wire.Device:
    return wire.Device(
        runtime_id=info.runtime_id,
        kind=info.device,
        name=info.device_name,
        memory_total_bytes=info.memory_total_bytes,
        memory_available_bytes=info.memory_available_bytes,
        memory_limit_bytes=info.memory_limit_bytes,
        memory_shortage_bytes=info.memory_shortage_bytes,
        engines_bytes=info.engines_bytes,
        versions=info.versions,
    )

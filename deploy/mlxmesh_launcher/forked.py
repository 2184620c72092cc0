"""Starts services as forks of the launcher.

Interpreters that import gRPC, protobuf and pydantic one after another are most of what a mesh needs
to start; forks share one import. docs/decisions/0012.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Collection
from functools import partial

from mlxmesh_shared.process.forked import ForkedProcess, can_fork
from mlxmesh_shared.process.standby import STDERR, STDOUT, receive_command
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.settings import SETTINGS

# The runtime begins first: it forks the spare engine, which has the most to import.
_SERVICES = ("mlxmesh_runtime", "mlxmesh_model", "mlxmesh_generation", "mlxmesh_gateway")
NEEDED_BY_ALL = (
    "mlxmesh_shared.process.service_host",
    "mlxmesh_shared.telemetry.exporter",
    "mlxmesh_shared.telemetry.log_records",
    "mlxmesh_shared.telemetry.otlp",
    "opentelemetry.trace.propagation.tracecontext",
)


def fork_services(services: Collection[str] = ()) -> dict[str, ForkedProcess]:
    """By its module, a process for each service, which imports it and waits for its command line.

    `services` are those that run here; empty for all.

    To be called before anything uses gRPC or starts a thread; there is none where forking is not
    safe.
    """
    for name in NEEDED_BY_ALL:
        importlib.import_module(name)
    for settings in SETTINGS.values():
        settings.model_rebuild()  # pydantic's validators, else built by each process
    gc.freeze()  # a fork that collects garbage would copy every page that it looks at
    modules = [each for each in _SERVICES if not services or _service_of(each) in services]
    return {module: _fork(module) for module in modules} if can_fork() else {}


def _service_of(module: str) -> str:
    return module.removeprefix("mlxmesh_")


def _fork(module: str) -> ForkedProcess:
    return ForkedProcess.fork(
        partial(run_when_ordered, module), f"{module} (not started)", pipe_stdout=False
    )


def run_when_ordered(module: str) -> int:
    """Imports a service and runs it once stdin delivers its command line; returns the exit code."""
    service = importlib.import_module(f"{module}.__main__")
    return run_service(service.main) if receive_command(STDOUT, STDERR) else 0

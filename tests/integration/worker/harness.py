"""Workers in this process, with a scripted jobs service and a real generation service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, GenerateResponse
from mlxmesh.job.v1 import job_pb2
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.settings import WorkerSettings
from mlxmesh_worker.assembly import Worker, open_worker
from mlxmesh_worker.connectors.port import ConnectorType
from tests.fakes.job_service import FakeJob, FakeJobs, FakeJobService
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.service_process import quiet_process
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh, running_mesh

NO_CONNECTORS: Mapping[str, ConnectorType] = MappingProxyType({})
SEED = 3


@dataclass
class Rig:
    """A mesh with jobs."""

    mesh: Mesh
    service: FakeJobService
    data_dir: Path

    @property
    def jobs(self) -> FakeJobs:
        return self.service.jobs

    @property
    def registry(self) -> InMemoryRegistry:
        return self.mesh.registry

    def generate(self, job_id: str = "job-1", timeout_ms: int = 0, **fields: Any) -> FakeJob:
        """Submits a generation."""
        return self.jobs.submit(
            job_id,
            job_pb2.JOB_KIND_GENERATION,
            generation=generation(request_id=job_id, **fields),
            timeout_ms=timeout_ms,
        )

    async def expected(self, **fields: Any) -> list[GenerateResponse]:
        """What a caller gets for the same generation."""
        return await self.mesh.collect(generation(**fields))

    async def ended(self, job: FakeJob, state: str = "completed") -> None:
        await until(lambda: job.state == state)


def generation(**fields: Any) -> GenerateRequest:
    """A request with a seed."""
    defaults: dict[str, Any] = {
        "model": "pocket",
        "prompt": "x",
        "max_tokens": 200,
        "sampling": Sampling(seed=SEED, temperature=1),
    }
    return GenerateRequest(**{**defaults, **fields})


def generation_instance(address: str, instance_id: str = "generation-1") -> Instance:
    return Instance("generation", instance_id, address, 0)


@asynccontextmanager
async def running_rig(tmp_path: Path, tokenizer_dir: Path, **lease: Any) -> AsyncIterator[Rig]:
    """One engine, one generation service and one jobs service, without a worker."""
    async with (
        running_mesh(tmp_path, tokenizer_dir) as mesh,
        FakeJobService(**lease).running() as service,
    ):
        await mesh.registry.register(generation_instance(mesh.server.address))
        await mesh.registry.register(service.instance)
        yield Rig(mesh, service, tmp_path)


@asynccontextmanager
async def running_worker(
    rig: Rig,
    instance_id: str = "worker-1",
    connectors: Mapping[str, ConnectorType] = NO_CONNECTORS,
    **changes: Any,
) -> AsyncIterator[Worker]:
    """A worker, which is killed at the end: it says nothing more."""
    settings = WorkerSettings(data_dir=rig.data_dir, **changes)
    async with AsyncExitStack() as stack:
        process = quiet_process(settings, "worker", instance_id)
        worker = await open_worker(stack, process, rig.registry, connectors)
        async with worker.running():
            yield worker

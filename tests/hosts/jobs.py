"""Jobs submitted at once: python -m tests.hosts.jobs GATEWAY TLS_DIR JOBS.

Prints the host of each job's worker and how it ended, as JSON, once all have.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from mlxmesh.job.v1.job_pb2 import Job, JobState
from mlxmesh_client import CertificateFiles, MeshClient
from mlxmesh_client.request import generate_request


async def run_job(client: MeshClient) -> Job:
    request = generate_request("pocket", {"prompt": "Hi", "max_tokens": 100})
    return await client.jobs.wait((await client.jobs.submit_generation(request)).job_id)


async def main(address: str, tls_dir: str, jobs: str) -> None:
    tls = CertificateFiles.of_role(Path(tls_dir), "admin")
    async with MeshClient(address, tls=tls) as client:
        hosts = {each.worker_id: each.host for each in await client.jobs.list_workers()}
        ended = await asyncio.gather(*(run_job(client) for _ in range(int(jobs))))
        print(json.dumps([[hosts[_worker_of(job)], JobState.Name(job.state)] for job in ended]))


def _worker_of(job: Job) -> str:
    return job.attempts[-1].worker_id


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""A mesh over TLS: who should not get in does not, and new certificates cost no stream."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxmesh.engine.v1.engine_pb2 import GetEngineInfoRequest
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh.generation.v1.generation_pb2 import CountTokensRequest
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_launcher.authority import Authority
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.tls import CertificateFiles, CertificateSource
from mlxmesh_shared.tls.identity import ROLES
from tests.bench.results import Findings, Row
from tests.chaos.checker import by_request, check
from tests.chaos.clients import Crowd, mixed_requests
from tests.chaos.figures import at_most, promises
from tests.chaos.history import OK
from tests.chaos.load import SteadyLoad
from tests.chaos.mesh import ChaosMesh, Shape, running
from tests.chaos.scenario import Run, Scenario
from tests.fakes.certificates import expired, issue_all, without_role

STREAMS, TOKENS = 16, 60
ROTATION_S = 1.5
"""Longer than a process waits before it looks at its files again."""
CALL_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Stranger:
    """Somebody who must get no answer."""

    name: str
    files: CertificateFiles
    service: str = "gateway"


def strangers(tls_dir: Path, folder: Path) -> list[Stranger]:
    """With certificates that are bad in every way, made in a new folder."""
    ours = folder / "ours"
    ours.mkdir(parents=True)
    for name in ("ca.crt", "ca.key"):
        shutil.copy(tls_dir / name, ours / name)
    issue_all(folder / "foreign")
    foreign = CertificateFiles.of_role(folder / "foreign", "admin")
    return [
        Stranger("no certificate", CertificateFiles(ours / "ca.crt")),
        Stranger("expired", expired(ours, "admin")),
        Stranger(
            "of another authority",
            CertificateFiles(ours / "ca.crt", foreign.certificate, foreign.key),
        ),
        Stranger("without a role", without_role(ours, "")),
        Stranger("a client's, at an engine", CertificateFiles.of_role(tls_dir, "client"), "engine"),
    ]


async def certificates(run: Run) -> Findings:
    """Rotated again and again under load; between rotations strangers try to get in."""
    requests = mixed_requests(STREAMS, max_tokens=TOKENS)
    rows: list[Row] = []
    async with running(Shape(replicas=2, tls=True)) as mesh:
        tls_dir, before = mesh.data_dir / "tls", await mesh.pids()
        known = CertificateSource(CertificateFiles.of_role(tls_dir, "client"))
        refused_ones = strangers(tls_dir, run.folder / "strangers")
        async with Crowd([mesh.address], certificates=known) as crowd:
            crowd.start(requests, "reference")
            run.keep("reference", await crowd.finish())
        async with SteadyLoad(mesh.address, requests, streams=STREAMS, certificates=known) as load:
            for number in run.rounds():
                total, failed = load.total, load.failed
                await asyncio.to_thread(Authority(tls_dir).renew, ROLES)
                answered = await answers(mesh, refused_ones)
                await asyncio.sleep(ROTATION_S)
                rows.append(
                    {
                        "fault": "rotation",
                        "rounds": 1,
                        "calls": load.total - total,
                        "failed": load.failed - failed,
                        "strangers refused": len(refused_ones) - len(answered),
                        "untrusted peers answered": len(answered),
                    }
                )
                run.report(f"rotation {number + 1}: {rows[-1]}")
        died = before - await mesh.pids()
    run.keep("history", load.calls)
    violations = check(run.kept("history"), by_request(run.kept("reference")))
    return Findings(
        [
            at_most(f"calls failed, of {load.total:,}", load.failed, 0),
            *promises(violations),
            at_most(
                "untrusted peers answered",
                sum(int(row["untrusted peers answered"]) for row in rows),
                0,
            ),
            at_most("processes that died", len(died), 0),
        ],
        {"by fault": rows, "ends": load.rows()},
    )


async def answers(mesh: ChaosMesh, asking: Sequence[Stranger]) -> list[str]:
    """Who of them gets an answer."""
    statuses = await asyncio.gather(*(_ask(mesh, one) for one in asking))
    return [one.name for one, status in zip(asking, statuses, strict=True) if status == OK]


async def _ask(mesh: ChaosMesh, stranger: Stranger) -> str:
    (address, *_) = [one.address for one in await mesh.instances(stranger.service)]
    shown = CertificateSource(stranger.files)
    async with open_channel(address, role=stranger.service, certificates=shown) as channel:
        try:
            if stranger.service == "engine":
                info = EngineServiceStub(channel).GetEngineInfo
                await info(GetEngineInfoRequest(), timeout=CALL_TIMEOUT_S)
            else:
                count = GenerationServiceStub(channel).CountTokens
                asked = CountTokensRequest(model="pocket", prompt="Who am I?")
                await count(asked, timeout=CALL_TIMEOUT_S)
        except MeshError as error:
            return error.reason
    return OK


SCENARIOS = (
    Scenario("certificates", "certificates rotated, invalid ones presented", 12, 45, certificates),
)

"""A host that joins with a worker, and without a gateway."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.hosts.joined_hosts import JoinedHosts
from tests.hosts.network import Network
from tests.hosts.setup import until

pytestmark = [pytest.mark.tools, pytest.mark.timeout(600)]


def test_a_host_with_a_worker_runs_jobs(tmp_path: Path) -> None:
    with Network("a", "b") as network:
        check(JoinedHosts(network, tmp_path))


def check(hosts: JoinedHosts) -> None:
    hosts.a.run("mlxmesh up --hosts --detach")
    invited = hosts.a.run("mlxmesh hosts invite --services runtime,worker")
    command = invited.splitlines()[-1]
    hosts.b.run(f"{command} --detach")
    until(lambda: set(hosts.a.hosts().get("b", {}).get("services", ())) == {"runtime", "worker"})
    names = {path.name for path in (hosts.b.data_dir / "tls").glob("*.key")}
    assert names == {f"{role}.key" for role in ("runtime", "worker", "engine", "client", "consul")}

    hosts.a.run("mlxmesh jobs start")
    gateway, tls_dir = f"{hosts.a.host.address}:50051", hosts.a.data_dir / "tls"

    def used() -> set[str]:
        """The hosts whose workers ran some of many jobs, all of which completed."""
        command = (sys.executable, "-m", "tests.hosts.jobs", gateway, tls_dir, "20")
        done = hosts.a.host.run(*command)
        assert done.returncode == 0, done.stderr
        ran = json.loads(done.stdout)
        assert {state for _, state in ran} == {"JOB_STATE_COMPLETED"}
        return {host for host, _ in ran}

    until(lambda: "b" in used())

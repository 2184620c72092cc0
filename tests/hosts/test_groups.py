"""A group over three hosts: a rank whose host is cut off ends it everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.network import Network

pytestmark = [pytest.mark.tools, pytest.mark.timeout(240)]
START_TIMEOUT_S = 180
# A busy machine may keep a process from its processor for longer than the default. After 5 s gRPC
# ends connections that do not answer.
SILENCE_S = "3"
END_TIMEOUT_S = 60
# A stream, from a client on the host of rank 0; prints a line for each message with tokens.
STREAM = """
import asyncio, sys
from tests.fakes.group_engines import Group, submit
from mlxmesh.engine.v1 import engine_pb2

async def main():
    group = Group([], sys.argv[1])
    call = group.stub.Execute()
    request = submit(1, [5, 6, 7], max_tokens=2000)
    await call.write(engine_pb2.ExecuteRequest(submit=request))
    async for response in call:
        if any(output.token_ids for output in response.outputs):
            print("tokens", flush=True)

asyncio.run(main())
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network("a", "b", "c") as network:
        yield network


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Its heads can be divided by three."""
    from tests.fakes.tiny_model import write_model

    return write_model(tmp_path / "model", hidden=96, num_attention_heads=6, num_key_value_heads=6)


def reported(log: Path, key: str) -> str:
    """The value of the first report in a log that has the key."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        for line in log.read_text().splitlines() if log.exists() else ():
            if line.startswith("{") and key in (report := json.loads(line)):
                return report[key]
        time.sleep(0.1)
    pytest.fail(f"no {key} within {START_TIMEOUT_S} s: {log.read_text()[-2000:]}")


def test_a_host_that_is_cut_off_ends_the_group_everywhere(
    network: Network, model: Path, tmp_path: Path
) -> None:
    engine = (sys.executable, "-m", "mlxmesh_engine", "--no-telemetry", "--model-dir", model)
    ranks: list[subprocess.Popen[bytes]] = []
    leader: tuple[str, ...] = ()
    for rank, name in enumerate("abc"):
        log = tmp_path / f"{name}.log"
        place = ("--group-size", "3", "--group-rank", str(rank), *leader)
        place = (*place, "--group-silence-s", SILENCE_S)
        listen = ("--group-listen", f"{network[name].address}:0")
        allowed = ("--insecure-listen", "--insecure-group")
        ranks.append(network[name].start(*engine, *place, *listen, *allowed, log=log))
        leader = leader or ("--group-leader", reported(log, "group_address"))
    address = reported(tmp_path / "a.log", "address")
    client = tmp_path / "client.log"
    network["a"].start(sys.executable, "-c", STREAM, address, log=client)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while "tokens" not in client.read_text():
        assert time.monotonic() < deadline_s, client.read_text()
        time.sleep(0.1)

    network.split(("a", "b"), ("c",))
    assert all(rank.wait(END_TIMEOUT_S) != 0 for rank in ranks)
    said = {name: (tmp_path / f"{name}.log").read_text() for name in "abc"}
    assert "silent for" in said["c"]
    # Of the two that reach each other, one may end because the other has ended before.
    assert "silent for" in said["a"] + said["b"]

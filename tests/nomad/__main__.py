"""Runs deploy/nomad/mesh.nomad.hcl under a real Nomad agent, on this host, and reports what it did.

    deploy/tools/build-nomad && make consul
    .venv/bin/python -m tests.nomad --json build/nomad.json

Nomad validates both files. Then it starts the mesh as processes (raw_exec), without certificates,
and four streams and short calls run that never retry, while

  1. a new version of the job replaces every process (a rolling deployment);
  2. processes are killed, one of each service, and Nomad starts them again;
  3. the job is stopped in the middle of a stream.

Nothing is left at the end but, as root, Nomad's empty cgroups. It takes about ten minutes, and
LIMIT_S at most. The exit status is 0 if every step did what docs/deploy.md says. Needs
Linux or macOS, a Nomad and a Consul agent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from mlxmesh_client import MeshClient
from tests.fakes.consul_process import ConsulAgentProcess
from tests.fakes.tools import TOOLS
from tests.nomad.agent import JOB, JOBS, ROOT, NomadAgent
from tests.scale.__main__ import find_consul

LIMIT_S = 1500.0
DEPLOYED_WITHIN_S = 420.0
RECOVERED_WITHIN_S = 120.0
STOPPED_WITHIN_S = 360.0
"""A runtime waits for others to take its models (hand_over_s), though they leave as well."""
STREAM_TOKENS = 400
CALLS = ("Generate", "CountTokens", "chat")
_POLL_S = 0.5

progress = Console(stderr=True)


class Trial:
    """One run against one agent; `findings` has what was seen."""

    def __init__(self, nomad: NomadAgent) -> None:
        self.findings: dict[str, Any] = {}
        self._nomad = nomad
        self._address = f"127.0.0.1:{nomad.grpc_port}"
        self._http = f"127.0.0.1:{nomad.http_port}"

    async def run(self, left_out: set[str]) -> None:
        """Every step in turn."""
        steps = (self.validate, self.start, self.update, self.kill, self.stop)
        for step in (each for each in steps if each.__name__ not in left_out):
            started_s = time.monotonic()
            progress.print(f"{step.__name__} ...")
            found = await step()
            self.findings[step.__name__] = found
            progress.print(f"  {found}, {time.monotonic() - started_s:.0f} s", highlight=False)

    async def validate(self) -> Any:
        """Nomad's own reading of both files, with and without certificates."""
        said: list[str] = []
        for name in ("mesh", "mesh-containers"):
            for tls in ("true", "false"):
                words = ("job", "validate", f"-var=tls={tls}", str(JOBS / f"{name}.nomad.hcl"))
                said.append(await self._nomad.command(*words))
        return sorted({line for one in said for line in one.splitlines() if line})

    async def start(self) -> Any:
        """A deployment that becomes healthy, and a stream through the gateway."""
        deployment = await self._deploy()
        model = ROOT / "deploy" / "demo-model" / "pocket"
        await self._mlxmesh("register", str(model), "--name", "pocket")
        await self._mlxmesh("load", "pocket", "--replicas", "2")
        tokens = await self._stream(40)
        return {"deployment": deployment, "tokens": tokens, "services": self._services()}

    async def update(self) -> Any:
        """Every process is replaced under load."""
        before = set(self._nomad.processes())
        async with self._load() as seen:
            port = self._nomad.consul.rpartition(":")[2]
            deployment = await self._deploy(consul_address=f"localhost:{port}")
        kept = before & set(self._nomad.processes())
        errors = seen.pop("errors")
        return {
            "deployment": deployment,
            "not replaced": len(kept),
            **seen,
            "failed": len(errors),
            "first errors": errors[:3],
        }

    async def kill(self) -> Any:
        """SIGKILL to a process of each service; Nomad starts another in the same allocation."""
        recovered: dict[str, float] = {}
        services = self._services()
        for service in sorted(services):
            pid = next(p for p, name in self._nomad.processes().items() if name == service)
            started_s = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(RECOVERED_WITHIN_S):
                while pid in self._nomad.processes() or not await self._whole(services):
                    await asyncio.sleep(_POLL_S)
            recovered[service] = round(time.monotonic() - started_s, 1)
        restarts = {
            each["TaskGroup"]: each["TaskStates"]["process"]["Restarts"]
            for each in await self._nomad.allocations()
            if each["TaskStates"]["process"]["Restarts"]
        }
        tokens = await self._stream(40)
        return {"recovered after s": recovered, "restarts": restarts, "tokens": tokens}

    async def stop(self) -> Any:
        """The job stops in the middle of a stream, which runs to its end."""
        running = asyncio.create_task(self._stream(STREAM_TOKENS))
        await asyncio.sleep(1)
        under_way = not running.done()
        await self._nomad.command("job", "stop", "-purge", JOB)
        tokens = await running
        async with asyncio.timeout(STOPPED_WITHIN_S):
            while left := self._nomad.processes():
                await asyncio.sleep(_POLL_S)
        return {"under way": under_way, "tokens": tokens, "left": len(left)}

    async def _deploy(self, **variables: str) -> str:
        file = str(JOBS / "mesh.nomad.hcl")
        await self._nomad.command(
            "job", "run", "-detach", *self._nomad.variables(**variables), file
        )
        return (await self._nomad.deployment(DEPLOYED_WITHIN_S))["Status"]

    def _services(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for name in self._nomad.processes().values():
            counts[name] = counts.get(name, 0) + 1
        return counts

    async def _whole(self, services: dict[str, int]) -> bool:
        """Whether as many processes run, and the mesh answers."""
        if self._services() != services:
            return False
        return await self._mlxmesh("generate", "Hi", "--max-tokens", "2", check=False) == 0

    async def _stream(self, max_tokens: int) -> int:
        count = 0
        async with MeshClient(self._address, attempts=1) as client:
            events = client.generate(
                "pocket", messages=[("user", "Hi")], max_tokens=max_tokens, ignore_eos=True
            )
            async for event in events:
                count += len(event.token_ids)
        return count

    async def _mlxmesh(self, *words: str, check: bool = True) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mlxmesh_cli", *words, "--address", self._address),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if check and process.returncode:
            raise RuntimeError(f"mlxmesh {' '.join(words)}: {output.decode()}")
        return process.returncode or 0

    @asynccontextmanager
    async def _load(self) -> AsyncIterator[dict[str, Any]]:
        """Callers that never retry; `completed` and `errors` are there at the end."""
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.e2e.upgrade_client", self._address, self._http),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        seen: dict[str, Any] = {}
        try:
            assert client.stdin is not None
            assert client.stdout is not None
            async with asyncio.timeout(RECOVERED_WITHIN_S):
                assert await client.stdout.readline() == b"ready\n"
            yield seen
            output, _ = await client.communicate(b"")
            seen |= json.loads(output)
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()


def failures(findings: dict[str, Any], left_out: set[str]) -> list[str]:
    """What docs/deploy.md promises and the run did not show."""
    steps = {"validate", "start", "update", "kill", "stop"} - left_out
    if missing := sorted(steps - findings.keys()):
        return [f"{step} did not end" for step in missing]
    expected = {
        "the first deployment is healthy": findings["start"]["deployment"] == "successful",
    }
    if update := findings.get("update"):
        expected |= {
            "the update is healthy": update["deployment"] == "successful",
            "the update replaces every process": update["not replaced"] == 0,
            "every kind of call was answered": all(update["completed"].get(each) for each in CALLS),
            "no call fails during the update": update["failed"] == 0,
        }
    if stop := findings.get("stop"):
        expected |= {
            "the stream was under way at the stop": stop["under way"],
            "the stream survives the stop": stop["tokens"] == STREAM_TOKENS,
        }
    return [what for what, holds in expected.items() if not holds]


async def trial(nomad_binary: str, folder: Path, left_out: set[str]) -> dict[str, Any]:
    """Starts the agents, runs the steps, stops everything."""
    consul = ConsulAgentProcess(folder)
    await consul.start()
    nomad = NomadAgent(nomad_binary, folder, consul.address)
    one = Trial(nomad)
    try:
        async with asyncio.timeout(LIMIT_S), nomad.running():
            one.findings["versions"] = (await nomad.command("version")).split("\n")[0]
            try:
                await one.run(left_out)
            finally:
                for pid in nomad.processes():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
    except (RuntimeError, TimeoutError) as error:
        one.findings["error"] = repr(error)
    finally:
        await consul.stop()
    return one.findings


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.nomad",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nomad", default=str(TOOLS / "nomad"), help="the agent's program")
    parser.add_argument(
        "--without", nargs="+", default=[], choices=["update", "kill", "stop"], help="leave out"
    )
    parser.add_argument("--json", type=Path, help="write the findings here too")
    parser.add_argument("--keep", type=Path, help="keep all files in this folder")
    return parser.parse_args(arguments)


def main() -> int:
    """Parse the options, run, print, write."""
    args = parsed()
    os.environ["CONSUL_BIN"] = find_consul()
    if not os.environ["CONSUL_BIN"] or not Path(args.nomad).exists():
        progress.print("run `make consul` and `deploy/tools/build-nomad`, or name them")
        return 1
    with tempfile.TemporaryDirectory(prefix="mlxmesh-nomad-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        findings = asyncio.run(trial(args.nomad, folder, set(args.without)))
    missed = failures(findings, set(args.without))
    print(json.dumps({**findings, "missed": missed}, indent=2))
    if args.json:
        args.json.write_text(json.dumps({**findings, "missed": missed}, indent=2))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())

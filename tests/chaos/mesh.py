"""A mesh of real processes to break: started by the launcher, with more instances beside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mlxmesh_launcher.record import read_record
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.process.startup import child_environment
from mlxmesh_shared.registry import Instance, open_registry
from mlxmesh_shared.settings import MeshSettings, load_settings

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 90.0
_POLL_S = 0.05
SIMULATED = {
    "MLXMESH_ENGINE_BACKEND": "simulated",
    "MLXMESH_ENGINE_SIMULATED_PREFILL_US_PER_TOKEN": "0",
    "MLXMESH_ENGINE_SIMULATED_STEP_MS": "30",
}
"""An engine that makes up its tokens: the mesh alone is what is tested, at any scale."""
_ABOUT_ALL = ("MLXMESH_REGISTRY", "MLXMESH_CONSUL_")
_ENVIRONMENT = {
    # An engine that is killed a hundred times must come back a hundred times, and at once.
    "MLXMESH_RUNTIME_BREAKER_FAILURES": "1000000",
    "MLXMESH_RUNTIME_RESTART_BACKOFF_MIN_S": "0.1",
    "MLXMESH_RUNTIME_RESTART_BACKOFF_MAX_S": "0.2",
    # When an engine was given up stands at this level in generation's log.
    "MLXMESH_LOG_LEVEL": "debug",
}


@dataclass(frozen=True)
class Shape:
    """How many of what."""

    replicas: int = 2
    generations: int = 1
    gateways: int = 1
    models: tuple[str, ...] = ()
    tls: bool = False
    """Between all processes."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(SIMULATED))

    def environment_of_all(self) -> dict[str, str]:
        """The part of the environment that is about the whole mesh, and so about us."""
        return {k: v for k, v in self.environment.items() if k.startswith(_ABOUT_ALL)}

    def counts(self) -> dict[str, int]:
        """Instances of each service."""
        return {
            "runtime": 1,
            "model": 1,
            "engine": self.replicas,
            "generation": self.generations,
            "gateway": self.gateways,
        }


class ChaosMesh:
    """The processes of one data directory; all of them end with this one."""

    def __init__(self, data_dir: Path, shape: Shape) -> None:
        self.data_dir = data_dir
        self.address = ""
        """Of the launcher's gateway."""
        self._shape = shape
        self._settings = load_settings(
            MeshSettings, ["--data-dir", str(data_dir)], env=shape.environment_of_all()
        )
        self._registry = open_registry(self._settings)
        self._processes: list[Process] = []
        self._added = 0

    async def start(self) -> None:
        """Returns when every instance serves and the model is loaded."""
        words = [word for model in self._shape.models for word in ("--model", model)]
        words += ["--tls"] if self._shape.tls else []
        await self._spawn(
            "launcher", "--grpc-port", "0", "--replicas", str(self._shape.replicas), *words
        )
        async with asyncio.timeout(START_TIMEOUT_S):
            while not (record := read_record(self.data_dir)) or not record.gateway:
                self._raise_if_ended()
                await asyncio.sleep(_POLL_S)
        self.address = record.gateway
        for service, count in self._shape.counts().items():
            if service in ("generation", "gateway"):
                for _ in range(count - 1):
                    await self.add(service)
        await self.until_whole()

    async def add(self, service: str) -> Instance:
        """Starts one more instance and returns it once it is registered."""
        tls = ("--tls-dir", str(self.data_dir / "tls")) if self._shape.tls else ()
        process = await self._spawn(service, "--listen", "127.0.0.1:0", *tls)
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                for instance in await self.instances(service):
                    if instance.pid == process.pid:
                        return instance
                await asyncio.sleep(_POLL_S)

    async def instances(self, service: str) -> Sequence[Instance]:
        """Those that the registry knows and that live."""
        return await self._registry.resolve(service)

    @property
    def own_pids(self) -> list[int]:
        """Of the launcher and of what was added beside it; all others descend from these."""
        return [process.pid for process in self._processes if process.returncode is None]

    async def pids(self) -> set[int]:
        """Of every process that is registered."""
        found = [await self.instances(service) for service in self._shape.counts()]
        return {instance.pid for instances in found for instance in instances}

    async def added(self, service: str) -> Instance:
        """The instance of a service that the launcher does not look after."""
        own = {process.pid for process in self._processes if process.returncode is None}
        return next(one for one in await self.instances(service) if one.pid in own)

    async def until_whole(self) -> None:
        """Returns when as many instances of each service serve as there should be."""
        async with asyncio.timeout(START_TIMEOUT_S):
            for service, count in self._shape.counts().items():
                while len(await self.instances(service)) < count:
                    await asyncio.sleep(_POLL_S)
        # The others see a new record within a moment, and connect.
        await asyncio.sleep(0.3)

    @contextlib.asynccontextmanager
    async def rerouted(self, instance: Instance, address: str) -> AsyncGenerator[None]:
        """Others reach the instance at another address until the end; its record says so."""
        self._rewrite(instance, instance.address, address)
        try:
            yield
        finally:
            self._rewrite(instance, address, instance.address)

    def _rewrite(self, instance: Instance, old: str, new: str) -> None:
        record = self.data_dir / "registry" / instance.service / f"{instance.instance_id}.json"
        try:
            content = json.loads(record.read_text())
        except FileNotFoundError:
            return  # it went away meanwhile, and its record with it
        if content["address"] == old:
            draft = record.with_name(f".{record.stem}.chaos.draft")
            draft.write_text(json.dumps(content | {"address": new}))
            draft.replace(record)

    async def registered(self) -> dict[str, int]:
        """Instances by service that somebody finds who asks the registry for the first time."""
        registry = open_registry(self._settings)
        try:
            return {name: len(await registry.resolve(name)) for name in self._shape.counts()}
        finally:
            await registry.close()

    async def until_registered(self) -> float:
        """Waits until a newcomer finds everybody; how many seconds that took."""
        started_s = time.monotonic()
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await self._finds_everybody():
                await asyncio.sleep(_POLL_S)
        return time.monotonic() - started_s

    async def _finds_everybody(self) -> bool:
        try:
            found = await self.registered()
        except (MeshError, OSError):
            return False
        return all(found[name] >= count for name, count in self._shape.counts().items())

    async def mlxmesh(self, *words: str, timeout_s: float) -> tuple[int, str]:
        """Runs the command on this mesh: its exit code and what it wrote."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mlxmesh_cli", *words, "--data-dir", str(self.data_dir),
            stdin=DEVNULL, stdout=PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(timeout_s):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return -1, f"no end within {timeout_s:.0f} s"
        return process.returncode or 0, output.decode(errors="replace")

    def first_log_s(self, service: str, component: str, about: str, since_s: float) -> float | None:
        """When a component first logged something about an instance, on the monotonic clock."""
        to_monotonic_s = time.monotonic() - time.time()
        for line in self._log_lines(service):
            at_s = datetime.fromisoformat(line["time"]).timestamp() + to_monotonic_s
            # Log times are cut to milliseconds.
            at_late = at_s + 0.001 >= since_s
            if at_late and line["component"] == component and about in line["message"]:
                return max(at_s, since_s)
        return None

    async def stop(self) -> None:
        """Kills what was added, then has the launcher stop the rest in its order."""
        await self._registry.close()
        for added in self._processes[1:]:
            if added.returncode is None:
                added.kill()
                await added.wait()
        for launcher in self._processes[:1]:
            if launcher.returncode is None:
                launcher.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await launcher.wait()
            except TimeoutError:
                launcher.kill()
                await launcher.wait()

    def _log_lines(self, service: str) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for file in (self.data_dir / "logs").glob(f"{service}*.log"):
            for text in file.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(text))
        return [line for line in lines if "component" in line]

    async def _spawn(self, service: str, *words: str) -> Process:
        self._added += 1
        logs = self.data_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{service}-{self._added}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"mlxmesh_{service}", "--data-dir", str(self.data_dir),
                *words,
                stdin=PIPE, stdout=log, stderr=log, start_new_session=True,
                env={**child_environment(), **_ENVIRONMENT, **self._shape.environment},
            )  # fmt: skip
        self._processes.append(process)
        return process

    def _raise_if_ended(self) -> None:
        for process in self._processes:
            if process.returncode is not None:
                logs = (self.data_dir / "logs").glob("*.log")
                ends = {log.name: log.read_text(errors="replace")[-300:] for log in logs}
                raise RuntimeError(f"a process ended with code {process.returncode}: {ends}")


@contextlib.asynccontextmanager
async def running(shape: Shape) -> AsyncGenerator[ChaosMesh]:
    """A mesh of this shape in a directory of its own, both gone in the end."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-chaos-") as folder:
        mesh = ChaosMesh(Path(folder), shape)
        try:
            await mesh.start()
            yield mesh
        finally:
            await mesh.stop()


def kill(instance: Instance) -> None:
    """Ends its process as a crash does."""
    os.kill(instance.pid, signal.SIGKILL)


def freeze(instance: Instance) -> None:
    """Stops its process where it stands; its connections stay open."""
    os.kill(instance.pid, signal.SIGSTOP)


def thaw(instance: Instance) -> None:
    """Lets it go on; one that was killed meanwhile is left alone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(instance.pid, signal.SIGCONT)

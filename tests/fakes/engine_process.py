"""A fake engine PROCESS: an engine's flags, stdout lines, signals and GetEngineInfo, without MLX.

Spawn it as the runtime spawns `python -m mlxmesh_engine`; `command()` gives the front of the
command line. `fake_engine.json` in the model directory tells it how to misbehave, see `Behaviour`;
it is read again for each GetEngineInfo, so that a test can change it while the engine runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mlxmesh.control.v1.control_pb2_grpc import add_ControlServiceServicer_to_server
from mlxmesh.engine.v1 import engine_pb2 as pb
from mlxmesh.engine.v1 import engine_pb2_grpc as pb_grpc
from mlxmesh_shared.process.startup import die_with_parent
from mlxmesh_shared.rpc.control import ControlServicer

BEHAVIOUR_FILE = "fake_engine.json"
STARTS_FILE = "fake_engine.starts"
CRASH_EXIT_CODE = 7

if TYPE_CHECKING:
    ExecuteContext = grpc.aio.ServicerContext[
        AsyncIterator[pb.ExecuteRequest], AsyncIterator[pb.ExecuteResponse]
    ]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What the fake does; by default it works and is ready at once."""

    load_s: float = 0.0  # pause before it announces its address
    announce: bool = True  # False: it never reports its address
    crashes: int = 0  # this many first starts exit with CRASH_EXIT_CODE without an address
    refuses: str = ""  # every start fails permanently with this reason
    drain_s: float = 0.0  # how long it drains after SIGTERM
    ignore_sigterm: bool = False  # it must be killed
    time_since_progress_ms: int = 1  # large: it answers although its loop hangs
    slow_info_s: float = 0.0  # delay of GetEngineInfo
    running: int = 0  # its load, with the next three
    waiting: int = 0
    longest_wait_ms: int = 0
    idle_ms: int = 0

    def write(self, model_dir: Path) -> None:
        """Set the behaviour of this model directory's engines, including running ones."""
        draft = model_dir / f".{BEHAVIOUR_FILE}"
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(model_dir / BEHAVIOUR_FILE)

    @classmethod
    def read(cls, model_dir: Path) -> Behaviour:
        """The configured behaviour, or the default."""
        try:
            return cls(**json.loads((model_dir / BEHAVIOUR_FILE).read_text()))
        except FileNotFoundError:
            return cls()


def command() -> list[str]:
    """What to spawn in place of `python -m mlxmesh_engine`; the engine's flags follow."""
    return [sys.executable, str(Path(__file__).resolve())]


def write_model_dir(path: Path, behaviour: Behaviour | None = None) -> Path:
    """Make `path` a minimal model directory, served with `behaviour`."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text('{"model_type": "fake"}')
    (path / "model.safetensors").write_bytes(b"\0" * 1024)
    (behaviour or Behaviour()).write(path)
    return path


class FakeEngineServicer(pb_grpc.EngineServiceServicer):
    """Answers GetEngineInfo, by default like an idle engine."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self._flags = flags

    async def GetEngineInfo(
        self, request: pb.GetEngineInfoRequest, context: object
    ) -> pb.GetEngineInfoResponse:
        behaviour = Behaviour.read(Path(self._flags.model_dir))
        await asyncio.sleep(behaviour.slow_info_s)
        return pb.GetEngineInfoResponse(
            engine_id=self._flags.engine_id,
            model=self._flags.model,
            model_version=self._flags.model_version,
            device="cpu",
            dtype="float32",
            context_tokens=256,
            vocab_size=64,
            weights_bytes=1024,
            time_since_progress_ms=behaviour.time_since_progress_ms,
            load=pb.EngineLoad(
                running=behaviour.running,
                waiting=behaviour.waiting,
                max_running=64,
                max_waiting=256,
                longest_wait_ms=behaviour.longest_wait_ms,
                idle_ms=behaviour.idle_ms,
            ),
        )

    async def Execute(
        self,
        request_iterator: AsyncIterator[pb.ExecuteRequest],
        context: ExecuteContext,
    ) -> AsyncIterator[pb.ExecuteResponse]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the fake engine makes no tokens")
        yield pb.ExecuteResponse()  # pragma: no cover; makes this a generator

    async def Encode(self, request: pb.EncodeRequest, context: Any) -> pb.EncodeResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the fake engine makes no vectors")
        return pb.EncodeResponse()  # pragma: no cover; abort raises


def _say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def _exit_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def _crash_if_asked(model_dir: Path, behaviour: Behaviour) -> None:
    starts_file = model_dir / STARTS_FILE
    starts = int(starts_file.read_text()) if starts_file.exists() else 0
    starts_file.write_text(str(starts + 1))
    if starts < behaviour.crashes:
        print(f"fake engine: crash {starts + 1} on purpose", file=sys.stderr, flush=True)
        os._exit(CRASH_EXIT_CODE)


def _on_sigterm(behaviour: Behaviour) -> asyncio.Event:
    """An event that SIGTERM sets, unless SIGTERM is ignored."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, (lambda: None) if behaviour.ignore_sigterm else stop.set
    )
    return stop


async def _run(flags: argparse.Namespace) -> None:
    model_dir = Path(flags.model_dir)
    behaviour = Behaviour.read(model_dir)
    stop = _on_sigterm(behaviour)
    _say(phase="loading", note="weights")
    print("fake engine: flags", *sys.argv[1:], file=sys.stderr, flush=True)
    await asyncio.sleep(behaviour.load_s)
    if behaviour.refuses:
        _say(phase="failed", permanent=True, message=behaviour.refuses)
        raise SystemExit(1)
    _crash_if_asked(model_dir, behaviour)
    server = grpc.aio.server()
    pb_grpc.add_EngineServiceServicer_to_server(FakeEngineServicer(flags), server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    add_ControlServiceServicer_to_server(ControlServicer(stop), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    if behaviour.announce:
        _say(address=f"127.0.0.1:{port}")
    await stop.wait()
    _say(phase="draining")
    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    await asyncio.sleep(behaviour.drain_s)
    await server.stop(0)


def main() -> None:
    """Parse the engine's flags and serve until SIGTERM or the end of stdin."""
    parser = argparse.ArgumentParser()
    for name in ("engine-id", "model", "model-dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--model-version", type=int, required=True)
    flags, _ = parser.parse_known_args()
    die_with_parent()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    asyncio.run(_run(flags))


if __name__ == "__main__":
    main()

"""A RuntimeService without processes: engines are records that tests push through their life.

Passes the same contract tests as the real one (tests/contract/test_runtime_service.py).
"""

import asyncio
import base64
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh.runtime.v1 import runtime_pb2_grpc
from mlxmesh_shared.errors import (
    ArtifactNotFound,
    EngineExists,
    EngineNotFound,
    FeatureNotSupported,
    InsufficientMemory,
    InvalidArgument,
)
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.rpc.server import MeshServer

_Context = ServicerContext[Any, Any]
GIB = 2**30


class FakeRuntime(runtime_pb2_grpc.RuntimeServiceServicer):
    """The runtime of one pretended host; engines are ready at once unless `hold` is set."""

    def __init__(self, runtime_id: str = "runtime-1", *, available_bytes: int = 8 * GIB) -> None:
        self.runtime_id = runtime_id
        self.available_bytes = available_bytes
        self.shortage_bytes = 0
        self.engines: dict[str, pb.Engine] = {}
        self.hold = False
        self.starts: list[str] = []
        self.options: dict[str, pb.EngineOptions] = {}
        self.stops: list[str] = []
        self.files: dict[str, pb.ModelFiles] = {}
        """What each engine was started with."""
        self.prunes: list[pb.PruneFilesRequest] = []
        self.refuse_with: Exception | None = None
        self._sequence = 0
        self._watchers: set[asyncio.Queue[pb.Engine]] = set()

    # What tests do to it.

    def set_state(
        self, engine_id: str, state: pb.EngineState.ValueType, *, failure: Failure | None = None
    ) -> None:
        """Moves an engine to a state, as if its process had."""
        engine = self.engines[engine_id]
        engine.state = state
        if failure is not None:
            engine.last_failure.CopyFrom(failure)
        self._tell(engine)

    def fail(self, engine_id: str, message: str = "it crashed 5 times in 120 s") -> None:
        """Opens the breaker of an engine."""
        failure = Failure(code=13, reason="ENGINE_CRASHED", message=message)
        self.set_state(engine_id, pb.ENGINE_STATE_FAILED, failure=failure)

    def set_load(self, engine_id: str, **load: int) -> None:
        """Sets an engine's load, such as running_sequences and idle_ms; watchers are not told."""
        for name, value in load.items():
            setattr(self.engines[engine_id], name, value)

    def refuse_model(self, engine_id: str, message: str) -> None:
        """Ends an engine that can never serve its model."""
        failure = Failure(code=9, reason="MODEL_REFUSED", message=message)
        self.set_state(engine_id, pb.ENGINE_STATE_FAILED, failure=failure)

    def lose_everything(self) -> None:
        """Comes back empty, under the same id."""
        self.engines.clear()

    # What the contract says.

    async def StartEngine(
        self, request: pb.StartEngineRequest, context: _Context
    ) -> pb.StartEngineResponse:
        if self.refuse_with is not None:
            raise self.refuse_with
        self._check(request)
        known = self.engines.get(request.engine_id)
        if known is not None and known.state != pb.ENGINE_STATE_FAILED:
            if (known.model, known.model_version) != (request.model, request.model_version):
                raise EngineExists(f"{request.engine_id} serves {known.model}; choose another id")
            return pb.StartEngineResponse(engine=known)
        self.starts.append(request.engine_id)
        self.files[request.engine_id] = request.files
        self.options[request.engine_id] = request.options
        state = pb.ENGINE_STATE_STARTING if self.hold else pb.ENGINE_STATE_READY
        engine = pb.Engine(
            engine_id=request.engine_id,
            model=request.model,
            model_version=request.model_version,
            state=state,
            address="" if self.hold else "127.0.0.1:1",
            pid=os.getpid(),
            memory_bytes=GIB // 4,
        )
        engine.start_time.GetCurrentTime()
        self.engines[request.engine_id] = engine
        self._tell(engine)
        return pb.StartEngineResponse(engine=engine)

    def _check(self, request: pb.StartEngineRequest) -> None:
        directory = Path(request.model_dir)
        if not directory.is_absolute() or not (directory / "config.json").is_file():
            raise InvalidArgument(
                "model_dir must be an absolute directory with config.json", field="model_dir"
            )
        draft = Path(request.options.draft_model_dir)
        if request.options.speculative == "draft" and not draft.is_absolute():
            raise InvalidArgument(
                "draft_model_dir must be an absolute directory", field="options.draft_model_dir"
            )
        needed = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        if needed > self.available_bytes:
            raise InsufficientMemory(
                f"needs {needed:,} bytes, {self.available_bytes:,} are available"
            )

    async def HostRank(
        self, request: pb.HostRankRequest, context: _Context
    ) -> AsyncIterator[pb.HostRankResponse]:
        raise FeatureNotSupported("this runtime runs no ranks")
        yield pb.HostRankResponse()

    async def FetchAdapter(
        self, request: pb.FetchAdapterRequest, context: _Context
    ) -> pb.FetchAdapterResponse:
        raise ArtifactNotFound("this host has no adapters")

    async def PruneFiles(
        self, request: pb.PruneFilesRequest, context: _Context
    ) -> pb.PruneFilesResponse:
        self.prunes.append(request)
        return pb.PruneFilesResponse(files=2, freed_bytes=2000)

    async def StopEngine(
        self, request: pb.StopEngineRequest, context: _Context
    ) -> pb.StopEngineResponse:
        engine = self._engine(request.engine_id)
        self.stops.append(request.engine_id)
        engine.state = pb.ENGINE_STATE_DRAINING
        self._tell(engine)
        while self.hold:
            await asyncio.sleep(0.01)
        if self.engines.pop(request.engine_id, None) is not None:
            engine.state = pb.ENGINE_STATE_STOPPED
            self._tell(engine)
        return pb.StopEngineResponse()

    async def GetEngine(
        self, request: pb.GetEngineRequest, context: _Context
    ) -> pb.GetEngineResponse:
        answer = pb.GetEngineResponse(engine=self._engine(request.engine_id))
        answer.engine.log_tail.append("a fake engine says nothing")
        return answer

    async def ListEngines(
        self, request: pb.ListEnginesRequest, context: _Context
    ) -> pb.ListEnginesResponse:
        size = request.page_size or 100
        after = self._after(request.page_token)
        ids = [engine_id for engine_id in sorted(self.engines) if engine_id > after]
        more = len(ids) > size
        token = base64.urlsafe_b64encode(f"after:{ids[size - 1]}".encode()).decode() if more else ""
        return pb.ListEnginesResponse(
            engines=[self.engines[engine_id] for engine_id in ids[:size]], next_page_token=token
        )

    @staticmethod
    def _after(token: str) -> str:
        try:
            prefix, _, name = base64.urlsafe_b64decode(token).decode().partition(":")
        except ValueError:
            prefix, name = "", ""
        if token and prefix != "after":
            raise InvalidArgument("page_token must be one of an answer", field="page_token")
        return name

    async def WatchEngines(
        self, request: pb.WatchEnginesRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchEnginesResponse]:
        queue: asyncio.Queue[pb.Engine] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            for engine_id in sorted(self.engines):
                engine = self.engines[engine_id]
                yield pb.WatchEnginesResponse(sequence=self._sequence, engine=engine)
            yield pb.WatchEnginesResponse(sequence=self._sequence, synced=True)
            while True:
                engine = await queue.get()
                yield pb.WatchEnginesResponse(sequence=self._sequence, engine=engine)
        finally:
            self._watchers.discard(queue)

    async def GetRuntimeInfo(
        self, request: pb.GetRuntimeInfoRequest, context: _Context
    ) -> pb.GetRuntimeInfoResponse:
        return pb.GetRuntimeInfoResponse(
            runtime_id=self.runtime_id,
            host="pretended",
            platform="none",
            device="cpu",
            device_name="none",
            memory_total_bytes=2 * self.available_bytes,
            memory_available_bytes=self.available_bytes,
            memory_limit_bytes=2 * self.available_bytes,
            memory_shortage_bytes=self.shortage_bytes,
            engines_bytes=sum(engine.memory_bytes for engine in self.engines.values()),
            cores=2,
            versions={"mlxmesh": "0"},
        )

    def _engine(self, engine_id: str) -> pb.Engine:
        if engine_id not in self.engines:
            raise EngineNotFound(f"there is no engine {engine_id}", field="engine_id")
        return self.engines[engine_id]

    def _tell(self, engine: pb.Engine) -> None:
        self._sequence += 1
        now = pb.Engine()
        now.CopyFrom(engine)
        for queue in self._watchers:
            queue.put_nowait(now)


class FakeHost:
    """A fake runtime on its own server, registered; `crash` takes both away at once."""

    def __init__(self, runtime: FakeRuntime, registry: Registry) -> None:
        self.runtime = runtime
        self._registry = registry
        self._server = MeshServer(
            services=[(runtime_pb2_grpc.add_RuntimeServiceServicer_to_server, runtime)],
            service_names=["mlxmesh.runtime.v1.RuntimeService"],
        )
        self.instance: Instance | None = None

    async def start(self) -> "FakeHost":
        """Listens and registers."""
        address = await self._server.start()
        self.instance = Instance("runtime", self.runtime.runtime_id, address, os.getpid())
        await self._registry.register(self.instance)
        return self

    async def slip_away(self) -> Instance:
        """Leaves the registry and goes on, as after a pause; returns what to register again."""
        assert self.instance is not None
        await self._registry.deregister(self.instance)
        return self.instance

    async def crash(self) -> None:
        """Goes away, as the registry and every caller sees it."""
        if self.instance is not None:
            await self._registry.deregister(self.instance)
            self.instance = None
            await self._server.drain(0, settle_s=0)

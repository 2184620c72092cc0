"""A ModelService that serves a catalogue from memory and tokenizer files from directories."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mlxmesh.model.v1.history_pb2_grpc import add_HistoryServiceServicer_to_server
from mlxmesh.model.v1.model_pb2 import (
    GetModelRequest,
    GetModelResponse,
    GetTokenizerRequest,
    GetTokenizerResponse,
    Model,
    RequestLoadRequest,
    RequestLoadResponse,
    Synced,
    WatchModelsRequest,
    WatchModelsResponse,
)
from mlxmesh.model.v1.model_pb2_grpc import (
    ModelServiceServicer,
    add_ModelServiceServicer_to_server,
)
from mlxmesh.model.v1.shadow_pb2_grpc import add_ShadowServiceServicer_to_server
from mlxmesh_shared.errors import MeshError, MethodNotFound, ModelNotFound
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.history_service import FakeHistoryService
from tests.fakes.shadow_service import FakeShadowService


class FakeModelService(ModelServiceServicer):
    """Watches, models, tokenizers and demanded loads; every other method is UNIMPLEMENTED."""

    def __init__(self) -> None:
        self.shadows = FakeShadowService()
        self.history = FakeHistoryService()
        self.tokenizer_fetches = 0
        self.fail_tokenizer: MeshError | None = None
        self.watches: list[int] = []
        """after_sequence of every watch so far."""
        self.load_requests: list[tuple[str, int]] = []
        """The versions that were asked for, once a call."""
        self.fail_load: MeshError | None = None
        self.on_load: Callable[[str, int], None] = lambda name, version: None
        """Called for each load that does not fail."""
        self._directories: dict[tuple[str, int], Path] = {}
        self._log: list[WatchModelsResponse] = []
        self._changed = asyncio.Event()
        self._server: MeshServer | None = None

    def put(self, model: Model, directory: Path | None = None) -> None:
        """Adds or changes a model; `directory` holds the tokenizer of all of its versions."""
        self._append(WatchModelsResponse(model=model))
        if directory is not None:
            for version in model.versions:
                self._directories[model.name, version.version] = directory

    def remove(self, name: str) -> None:
        self._append(WatchModelsResponse(removed_name=name))

    @property
    def instance(self) -> Instance:
        assert self._server is not None
        return Instance("model", "model-1", self._server.address, 0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeModelService"]:
        """Listens on a free port until the context ends; may be entered again afterwards."""
        server = self._server = MeshServer(
            services=[
                (add_ModelServiceServicer_to_server, self),
                (add_ShadowServiceServicer_to_server, self.shadows),
                (add_HistoryServiceServicer_to_server, self.history),
            ],
            service_names=[
                f"mlxmesh.model.v1.{name}Service" for name in ("Model", "Shadow", "History")
            ],
            name="model",
        )
        await server.start()
        await server.set_serving()
        try:
            yield self
        finally:
            await server.drain(grace_s=0, settle_s=0)

    async def stop(self) -> None:
        """Goes away, as when it is restarted; what it knows stays."""
        if self._server is not None:
            await self._server.drain(grace_s=0, settle_s=0)

    async def WatchModels(
        self, request: WatchModelsRequest, context: Any
    ) -> AsyncIterator[WatchModelsResponse]:
        self.watches.append(request.after_sequence)
        sent = len(self._log)  # changes while the listing is sent follow it
        last: dict[str, WatchModelsResponse] = {}
        for response in self._log[request.after_sequence :]:
            last[response.model.name or response.removed_name] = response
        for response in last.values():
            yield response
        yield WatchModelsResponse(sequence=sent, synced=Synced())
        while True:
            while sent < len(self._log):
                yield self._log[sent]
                sent += 1
            await self._changed.wait()

    async def GetModel(self, request: GetModelRequest, context: Any) -> GetModelResponse:
        name = ModelReference.parse(request.model).name
        for response in reversed(self._log):
            if response.model.name == name:
                return GetModelResponse(model=response.model)
            if response.removed_name == name:
                break
        raise ModelNotFound(f"there is no model {name}", field="model")

    async def RequestLoad(self, request: RequestLoadRequest, context: Any) -> RequestLoadResponse:
        self.load_requests.append((request.name, request.version))
        if self.fail_load is not None:
            raise self.fail_load
        self.on_load(request.name, request.version)
        return RequestLoadResponse()

    async def GetTokenizer(
        self, request: GetTokenizerRequest, context: Any
    ) -> AsyncIterator[GetTokenizerResponse]:
        self.tokenizer_fetches += 1
        if self.fail_tokenizer is not None:
            raise self.fail_tokenizer
        directory = self._directories.get((request.name, request.version))
        if directory is None:
            raise ModelNotFound("there is no such version", field="name")
        for path in sorted(directory.iterdir()):
            if path.suffix in {".json", ".jinja", ".model"}:
                content = path.read_bytes()
                for start in range(0, len(content), 2**20):
                    data = content[start : start + 2**20]
                    yield GetTokenizerResponse(file_name=path.name, data=data)

    def _append(self, response: WatchModelsResponse) -> None:
        response.sequence = len(self._log) + 1
        self._log.append(response)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _absent(self, request: Any, context: Any) -> Any:
        raise MethodNotFound("this fake has no such method")

    async def _absent_stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        raise MethodNotFound("this fake has no such method")
        yield

    PullModel = ImportModel = LoadModel = _absent_stream
    RegisterModel = ListModels = DeleteModel = UnloadModel = SetAlias = _absent
    SetOutputFormat = SetModelPolicy = RegisterUpstream = _absent

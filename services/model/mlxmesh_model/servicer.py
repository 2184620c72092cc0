"""ModelService: each method checks, calls and replies."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh.model.v1 import model_pb2_grpc
from mlxmesh_model import convert
from mlxmesh_model.artifacts import folder as artifacts
from mlxmesh_model.artifacts.imports import Imports
from mlxmesh_model.artifacts.pruning import Pruning
from mlxmesh_model.artifacts.pulls import Pulls
from mlxmesh_model.catalogue.models import Model, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.paging import from_page_token, to_page_token
from mlxmesh_model.profiles.profile import ProfileReference
from mlxmesh_model.profiles.store import Profiles
from mlxmesh_model.replicas.demand import Demand
from mlxmesh_model.replicas.loader import Loader
from mlxmesh_model.upstreams.convert import from_upstream
from mlxmesh_shared.artifacts.digests import sha256
from mlxmesh_shared.errors import FeatureNotSupported, IllegalState, InvalidArgument
from mlxmesh_shared.reference import ModelReference

_Context = ServicerContext[Any, Any]

_DEFAULT_PAGE_SIZE = 100
_CHUNK_BYTES = 1024 * 1024
# It takes precedence over the template in tokenizer_config.json.
_TEMPLATE_FILE = "chat_template.jinja"


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """The catalogue over gRPC; the contract documents each method."""

    def __init__(
        self,
        *,
        store: Store,
        pulls: Pulls,
        imports: Imports,
        pruning: Pruning,
        loader: Loader,
        demand: Demand,
        rejections: convert.RejectionsOf,
        fetches: convert.FetchesOf = convert.no_fetches,
        groups: convert.GroupsOf = convert.no_groups,
        sha256_of: Callable[[Path], str] = sha256,
    ) -> None:
        """sha256_of: of files in registered directories."""
        self._store = store
        self._fetches = fetches
        self._groups = groups
        self._sha256_of = sha256_of
        self._profiles = Profiles(store.transactions)
        self._pulls = pulls
        self._imports = imports
        self._pruning = pruning
        self._loader = loader
        self._demand = demand
        self._rejections = rejections

    async def PullModel(
        self, request: pb.PullModelRequest, context: _Context
    ) -> AsyncGenerator[pb.PullModelResponse]:
        if request.dtype and not request.file:
            raise InvalidArgument("dtype requires file, a GGUF file", field="dtype")
        name = request.name or request.repo_id.rpartition("/")[2]
        pull = self._pulls.pull(
            request.repo_id,
            request.revision or "main",
            name,
            file=request.file,
            dtype=request.dtype,
            kind=convert.from_kind(request.kind),
        )
        async with aclosing(pull):
            async for step in pull:
                yield convert.to_progress(step)

    async def RegisterModel(
        self, request: pb.RegisterModelRequest, context: _Context
    ) -> pb.RegisterModelResponse:
        directory = Path(request.directory)
        if not directory.is_absolute():
            raise InvalidArgument("directory must be absolute", field="directory")
        await self._store.check_name(request.name)
        kind = convert.from_kind(request.kind)
        artifact = await asyncio.to_thread(
            artifacts.inspect, directory, kind=kind, sha256_of=self._sha256_of
        )
        model, version = await self._store.register(request.name, artifact)
        return pb.RegisterModelResponse(model=convert.to_model(model), version=version)

    async def RegisterUpstream(
        self, request: pb.RegisterUpstreamRequest, context: _Context
    ) -> pb.RegisterUpstreamResponse:
        upstream = from_upstream(request.upstream)
        model, version = await self._store.register_upstream(request.name, upstream)
        return pb.RegisterUpstreamResponse(model=convert.to_model(model), version=version)

    async def ImportModel(
        self, request: pb.ImportModelRequest, context: _Context
    ) -> AsyncGenerator[pb.ImportModelResponse]:
        importing = self._imports.import_file(
            request.name,
            Path(request.file),
            request.dtype,
            convert.from_kind(request.kind),
        )
        async with aclosing(importing):
            async for step in importing:
                yield convert.to_import_progress(step)

    async def GetModel(self, request: pb.GetModelRequest, context: _Context) -> pb.GetModelResponse:
        reference = ModelReference.parse(request.model)
        model = await self._store.model(reference.name)
        pinned = reference.version is not None or reference.alias is not None
        only = model.resolve(reference) if pinned else None
        return pb.GetModelResponse(model=self._shown(model, only))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: _Context
    ) -> pb.ListModelsResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        after = from_page_token(request.page_token)
        found = await self._store.models(after=after, limit=size + 1)
        page = found[:size]
        token = to_page_token(page[-1].name) if len(found) > size else ""
        return pb.ListModelsResponse(
            models=[self._shown(model) for model in page],
            next_page_token=token,
        )

    async def DeleteModel(
        self, request: pb.DeleteModelRequest, context: _Context
    ) -> pb.DeleteModelResponse:
        removed = await self._store.delete(ModelReference.parse(request.model))
        await self._pruning.release(removed)
        return pb.DeleteModelResponse()

    async def LoadModel(
        self, request: pb.LoadModelRequest, context: _Context
    ) -> AsyncGenerator[pb.LoadModelResponse]:
        replicas = request.replicas if request.HasField("replicas") else 1
        profile = ProfileReference.parse(request.profile) if request.profile else None
        reference, group = ModelReference.parse(request.model), convert.from_group(request)
        load = self._loader.load(reference, replicas, profile, group)
        async with aclosing(load):
            async for version in load:
                shown = convert.to_version(
                    version,
                    self._rejections(version),
                    self._fetches(version),
                    self._groups(version),
                )
                yield pb.LoadModelResponse(name=version.model, version=shown)

    async def UnloadModel(
        self, request: pb.UnloadModelRequest, context: _Context
    ) -> pb.UnloadModelResponse:
        version = await self._loader.unload(ModelReference.parse(request.model))
        return pb.UnloadModelResponse(version=convert.to_version(version))

    async def RequestLoad(
        self, request: pb.RequestLoadRequest, context: _Context
    ) -> pb.RequestLoadResponse:
        version = await self._demand.request(
            request.name, request.version, convert.from_uses(request.recent_uses)
        )
        return pb.RequestLoadResponse(version=convert.to_version(version))

    async def SetModelPolicy(
        self, request: pb.SetModelPolicyRequest, context: _Context
    ) -> pb.SetModelPolicyResponse:
        changes = convert.from_policy(request.policy)
        model = await self._store.update_policy(request.name, changes)
        return pb.SetModelPolicyResponse(model=convert.to_model(model))

    async def SetAlias(self, request: pb.SetAliasRequest, context: _Context) -> pb.SetAliasResponse:
        model = await self._store.set_alias(request.name, request.alias, request.version)
        return pb.SetAliasResponse(model=convert.to_model(model))

    async def SetOutputFormat(
        self, request: pb.SetOutputFormatRequest, context: _Context
    ) -> pb.SetOutputFormatResponse:
        model = await self._store.set_output_formats(
            request.name,
            request.version,
            tools=request.tool_format if request.HasField("tool_format") else None,
            reasoning=request.reasoning_format if request.HasField("reasoning_format") else None,
        )
        return pb.SetOutputFormatResponse(model=convert.to_model(model))

    async def WatchModels(
        self, request: pb.WatchModelsRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchModelsResponse]:
        with self._store.subscribe() as changed:
            newest = await self._store.sequence()
            # A watcher that is ahead watched another catalogue: it gets every model of this one.
            after = request.after_sequence if request.after_sequence <= newest else 0
            for change in await self._store.changes(after):
                yield convert.to_change(change)
                newest = max(newest, change.sequence)
            yield pb.WatchModelsResponse(sequence=newest, synced=pb.Synced())
            while True:
                await changed.wait()
                changed.clear()
                for change in await self._store.changes(newest):
                    yield convert.to_change(change)
                    newest = change.sequence

    async def GetTokenizer(
        self, request: pb.GetTokenizerRequest, context: _Context
    ) -> AsyncGenerator[pb.GetTokenizerResponse]:
        model = await self._store.model(request.name, field="name")
        version = model.version(request.version, field="version")
        if version.upstream is not None:
            raise FeatureNotSupported(
                f"{version.label} is an upstream, which has no tokenizer here"
            )
        if version.artifact is None:
            raise IllegalState(f"{version.label} is {version.state.upper()}; pull it first")
        directory = Path(version.artifact.directory)
        files = await asyncio.to_thread(artifacts.tokenizer_files, directory)
        template = await self._template(request.profile or version.profile_label)
        if template is not None:
            files[_TEMPLATE_FILE] = Path()
        for name, path in files.items():
            if name == _TEMPLATE_FILE and template is not None:
                content = template.encode()
            else:
                content = await asyncio.to_thread(path.read_bytes)
            for start in range(0, max(1, len(content)), _CHUNK_BYTES):
                chunk = content[start : start + _CHUNK_BYTES]
                yield pb.GetTokenizerResponse(file_name=name, data=chunk)

    def _shown(self, model: Model, only: Version | None = None) -> pb.Model:
        """A model, or one version of it, with what is not in the catalogue."""
        return convert.to_model(
            model,
            only=only,
            rejections=self._rejections,
            fetches=self._fetches,
            groups=self._groups,
        )

    async def _template(self, profile: str) -> str | None:
        """The chat template of a profile; None if it has none."""
        if not profile:
            return None
        return (
            await self._profiles.profile(ProfileReference.parse(profile))
        ).settings.chat_template

"""The client's methods for the catalogue."""

from collections.abc import AsyncGenerator

from mlxmesh.model.v1 import model_pb2 as model_pb
from mlxmesh.model.v1.model_pb2_grpc import ModelServiceStub
from mlxmesh.model.v1.policy_pb2 import ModelPolicy
from mlxmesh.model.v1.upstream_pb2 import Upstream
from mlxmesh_client.calls import Calls


class ModelMethods:
    """One method per RPC of ModelService."""

    _calls: Calls
    _models: ModelServiceStub

    async def list_models(self, *, timeout_s: float | None = None) -> list[model_pb.Model]:
        """Returns every model of the catalogue, sorted by name."""
        models: list[model_pb.Model] = []
        request = model_pb.ListModelsRequest()
        while True:
            page = await self._calls.unary(self._models.ListModels, request, timeout_s, safe=True)
            models.extend(page.models)
            if not page.next_page_token:
                return models
            request.page_token = page.next_page_token

    async def get_model(self, model: str, *, timeout_s: float | None = None) -> model_pb.Model:
        """Returns one model; a reference with a version or an alias returns that version alone."""
        request = model_pb.GetModelRequest(model=model)
        response = await self._calls.unary(self._models.GetModel, request, timeout_s, safe=True)
        return response.model

    async def register_model(
        self,
        *,
        name: str,
        directory: str,
        kind: model_pb.ModelKind.ValueType = model_pb.MODEL_KIND_UNSPECIFIED,
        timeout_s: float | None = None,
    ) -> model_pb.RegisterModelResponse:
        """Registers an absolute directory on the model service's host as a new version."""
        request = model_pb.RegisterModelRequest(name=name, directory=directory, kind=kind)
        return await self._calls.unary(self._models.RegisterModel, request, timeout_s, safe=False)

    async def register_upstream(
        self, *, name: str, upstream: Upstream, timeout_s: float | None = None
    ) -> model_pb.RegisterUpstreamResponse:
        """Registers a model of an OpenAI-compatible server as a new version, and switches it on.

        `load_model` returns once its health check has succeeded.
        """
        request = model_pb.RegisterUpstreamRequest(name=name, upstream=upstream)
        method = self._models.RegisterUpstream
        return await self._calls.unary(method, request, timeout_s, safe=False)

    def import_model(
        self,
        *,
        name: str,
        file: str,
        dtype: str = "",
        kind: model_pb.ModelKind.ValueType = model_pb.MODEL_KIND_UNSPECIFIED,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[model_pb.ImportModelResponse]:
        """Converts and registers a GGUF file, an absolute path on the model service's host.

        The last progress message carries the version.
        """
        request = model_pb.ImportModelRequest(name=name, file=file, dtype=dtype, kind=kind)
        return self._calls.stream(self._models.ImportModel, request, timeout_s, safe=False)

    def pull_model(
        self,
        repo_id: str,
        *,
        revision: str = "",
        name: str = "",
        file: str = "",
        dtype: str = "",
        kind: model_pb.ModelKind.ValueType = model_pb.MODEL_KIND_UNSPECIFIED,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[model_pb.PullModelResponse]:
        """Downloads a model from a hub; `file` selects one GGUF file.

        The last progress message carries the version.
        """
        request = model_pb.PullModelRequest(
            repo_id=repo_id, revision=revision, name=name, file=file, dtype=dtype, kind=kind
        )
        return self._calls.stream(self._models.PullModel, request, timeout_s, safe=False)

    def load_model(
        self,
        model: str,
        *,
        replicas: int | None = None,
        profile: str = "",
        group_size: int | None = None,
        group_split: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[model_pb.LoadModelResponse]:
        """Loads a model; all its replicas are ready when the stream ends.

        `profile` is NAME or NAME@REVISION, or `default`; by default that of the last load.
        `group_size` ranks compute each replica, on as many hosts as there are; `group_split` is
        tensor, pipeline or auto. None for what the profile says.
        """
        request = model_pb.LoadModelRequest(
            model=model,
            replicas=replicas,
            profile=profile,
            group_size=group_size,
            group_split=group_split,
        )
        return self._calls.stream(self._models.LoadModel, request, timeout_s, safe=False)

    async def unload_model(
        self, model: str, *, timeout_s: float | None = None
    ) -> model_pb.ModelVersion:
        """Drains and unloads every replica of a model."""
        request = model_pb.UnloadModelRequest(model=model)
        response = await self._calls.unary(self._models.UnloadModel, request, timeout_s, safe=False)
        return response.version

    async def delete_model(self, model: str, *, timeout_s: float | None = None) -> None:
        """Removes a version, or a whole model, that is not loaded."""
        request = model_pb.DeleteModelRequest(model=model)
        await self._calls.unary(self._models.DeleteModel, request, timeout_s, safe=False)

    async def set_alias(
        self, *, name: str, alias: str, version: int, timeout_s: float | None = None
    ) -> model_pb.Model:
        """Points an alias at a version; version 0 removes it."""
        request = model_pb.SetAliasRequest(name=name, alias=alias, version=version)
        response = await self._calls.unary(self._models.SetAlias, request, timeout_s, safe=False)
        return response.model

    async def set_model_policy(
        self, name: str, policy: ModelPolicy, *, timeout_s: float | None = None
    ) -> model_pb.Model:
        """Sets how a model is loaded, scaled and unloaded, and what it costs; the fields of
        `policy` that are not set stay as they are.
        """
        request = model_pb.SetModelPolicyRequest(name=name, policy=policy)
        call = self._models.SetModelPolicy
        return (await self._calls.unary(call, request, timeout_s, safe=False)).model

    async def set_output_format(
        self,
        *,
        name: str,
        version: int = 0,
        tool_format: str | None = None,
        reasoning_format: str | None = None,
        timeout_s: float | None = None,
    ) -> model_pb.Model:
        """Sets how output is read, for one version or for every one; None leaves a format as it is.

        An empty format lets the chat template decide; `none` switches reading off.
        """
        request = model_pb.SetOutputFormatRequest(
            name=name,
            version=version,
            tool_format=tool_format,
            reasoning_format=reasoning_format,
        )
        call = self._models.SetOutputFormat
        return (await self._calls.unary(call, request, timeout_s, safe=False)).model

    def watch_models(
        self, *, after_sequence: int = 0, timeout_s: float | None = None
    ) -> AsyncGenerator[model_pb.WatchModelsResponse]:
        """Yields every model, then each change; `after_sequence` resumes an earlier watch."""
        request = model_pb.WatchModelsRequest(after_sequence=after_sequence)
        return self._calls.stream(self._models.WatchModels, request, timeout_s, safe=True)

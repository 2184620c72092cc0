"""The client: one method per RPC, with Python arguments in and typed messages out."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Self, Unpack

from mlxmesh.generation.v1.generation_pb2 import (
    CompleteRequest,
    CompleteResponse,
    CountTokensResponse,
    GetGenerationRequest,
    GetGenerationResponse,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.model.v1 import model_pb2 as model_pb
from mlxmesh.model.v1.model_pb2_grpc import ModelServiceStub
from mlxmesh.telemetry.v1 import telemetry_pb2 as telemetry_pb
from mlxmesh.telemetry.v1.events_pb2 import WatchEventsRequest, WatchEventsResponse
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceStub
from mlxmesh_client.calls import Calls
from mlxmesh_client.following import follow
from mlxmesh_client.generations import GenerationEvent, GenerationStreams
from mlxmesh_client.request import (
    GenerateOptions,
    InputOptions,
    count_request,
    generate_request,
)
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, SHORT_TIMEOUTS, open_channel
from mlxmesh_shared.tls import CertificateFiles, CertificateSource

DEFAULT_ADDRESS = "127.0.0.1:50051"


class MeshClient:
    """A connection to a gateway; every method raises MeshError subclasses.

    `timeout_s` bounds one call including its retries; without it the gateway's default applies.
    `attempts` is the total number of attempts of a safe call while the mesh is unavailable.
    `gateways` are further gateways of the same mesh, which resume generations of a lost one.
    A single gateway counts as lost after 10 s without a connection or 5 s without a reply to a
    ping; with several gateways, after 1 s and 0.5 s.
    `tls` names the certificates for a gateway with TLS; the next call uses renewed ones.

        async with MeshClient("localhost:50051") as mesh:
            async for event in mesh.generate("pocket", prompt="Hi", max_tokens=50):
                print(event.text, end="")
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        gateways: Sequence[str] = (),
        timeout_s: float | None = None,
        attempts: int = 4,
        tls: CertificateFiles | None = None,
    ) -> None:
        certificates = CertificateSource(tls) if tls is not None else None
        timeouts = SHORT_TIMEOUTS if gateways else LONG_TIMEOUTS
        self._channels = [
            open_channel(each, role="gateway", certificates=certificates, timeouts=timeouts)
            for each in (address, *gateways)
        ]
        stubs = [GenerationServiceStub(channel) for channel in self._channels]
        self._generation = stubs[0]
        self._models = ModelServiceStub(self._channels[0])
        self._telemetry = TelemetryServiceStub(self._channels[0])
        self._calls = Calls(attempts=attempts, default_timeout_s=timeout_s)
        self._streams = GenerationStreams(stubs, self._calls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection, which ends running calls."""
        for channel in self._channels:
            await channel.close()

    async def generate(
        self, model: str, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncGenerator[GenerationEvent]:
        """Streams one generation; leaving the loop early cancels it, unless you gave a request_id.

        A generation with a request_id can be resumed with `attach`. With several gateways the loss
        of one is not noticed. Raises ServiceUnavailable when the stream ends without its Finished
        event.
        """
        stream = self._streams.generate(generate_request(model, options), timeout_s)
        async with aclosing(stream) as events:
            async for event in events:
                yield event

    def attach(
        self, request_id: str, *, after_sequence: int = 0, timeout_s: float | None = None
    ) -> AsyncGenerator[GenerationEvent]:
        """Streams the events of a generation after a sequence number, past and future ones.

        A generation has one reader: the stream that was open before ends with ReaderReplaced.
        """
        return self._streams.attach(request_id, after_sequence, timeout_s)

    async def complete(
        self, model: str, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> CompleteResponse:
        """Generates a response and returns it whole."""
        request = CompleteRequest(generation=generate_request(model, options))
        return await self._calls.unary(self._generation.Complete, request, timeout_s, safe=True)

    async def get_generation(
        self, request_id: str, *, timeout_s: float | None = None
    ) -> GetGenerationResponse:
        """Returns the output so far of a running or retained generation, whoever reads it."""
        request = GetGenerationRequest(request_id=request_id)
        return await self._calls.unary(
            self._generation.GetGeneration, request, timeout_s, safe=True
        )

    async def cancel(self, request_id: str, *, timeout_s: float | None = None) -> None:
        """Cancels a running generation; its stream ends with Finished, reason CANCELLED."""
        await self._streams.cancel(request_id, timeout_s)

    async def count_tokens(
        self,
        model: str,
        *,
        return_token_ids: bool = False,
        timeout_s: float | None = None,
        **options: Unpack[InputOptions],
    ) -> CountTokensResponse:
        """Counts the tokens of a prompt or a conversation."""
        request = count_request(model, options, return_token_ids=return_token_ids)
        return await self._calls.unary(self._generation.CountTokens, request, timeout_s, safe=True)

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
        self, *, name: str, directory: str, timeout_s: float | None = None
    ) -> model_pb.RegisterModelResponse:
        """Registers an absolute directory on the model service's host as a new version."""
        request = model_pb.RegisterModelRequest(name=name, directory=directory)
        return await self._calls.unary(self._models.RegisterModel, request, timeout_s, safe=False)

    def import_model(
        self, *, name: str, file: str, dtype: str = "", timeout_s: float | None = None
    ) -> AsyncGenerator[model_pb.ImportModelResponse]:
        """Converts and registers a GGUF file, an absolute path on the model service's host.

        The last progress message carries the version.
        """
        request = model_pb.ImportModelRequest(name=name, file=file, dtype=dtype)
        return self._calls.stream(self._models.ImportModel, request, timeout_s, safe=False)

    def pull_model(
        self,
        repo_id: str,
        *,
        revision: str = "",
        name: str = "",
        file: str = "",
        dtype: str = "",
        timeout_s: float | None = None,
    ) -> AsyncGenerator[model_pb.PullModelResponse]:
        """Downloads a model from a hub; `file` selects one GGUF file.

        The last progress message carries the version.
        """
        request = model_pb.PullModelRequest(
            repo_id=repo_id, revision=revision, name=name, file=file, dtype=dtype
        )
        return self._calls.stream(self._models.PullModel, request, timeout_s, safe=False)

    def load_model(
        self, model: str, *, replicas: int | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[model_pb.LoadModelResponse]:
        """Loads a model; all its replicas are ready when the stream ends."""
        request = model_pb.LoadModelRequest(model=model, replicas=replicas)
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

    def watch_models(
        self, *, after_sequence: int = 0, timeout_s: float | None = None
    ) -> AsyncGenerator[model_pb.WatchModelsResponse]:
        """Yields every model, then each change; `after_sequence` resumes an earlier watch."""
        request = model_pb.WatchModelsRequest(after_sequence=after_sequence)
        return self._calls.stream(self._models.WatchModels, request, timeout_s, safe=True)

    async def mesh_status(self, *, timeout_s: float | None = None) -> list[telemetry_pb.Instance]:
        """Returns every process of the mesh as the gateway sees it, by service and id."""
        return list((await self.mesh_state(timeout_s=timeout_s)).instances)

    async def mesh_state(
        self, *, timeout_s: float | None = None
    ) -> telemetry_pb.GetMeshStatusResponse:
        """Returns every process of the mesh, and the gateways' traffic of the last minute."""
        request = telemetry_pb.GetMeshStatusRequest()
        return await self._calls.unary(self._telemetry.GetMeshStatus, request, timeout_s, safe=True)

    def watch_events(
        self,
        *,
        after_sequence: int | None = None,
        log_id: str = "",
        names: Sequence[str] = (),
        services: Sequence[str] = (),
        correlation_id: str = "",
        timeout_s: float | None = None,
    ) -> AsyncGenerator[WatchEventsResponse]:
        """Yields the events that the gateway retains, EventsSynced, then each new event.

        To resume, pass `sequence` and `log_id` of the last message. A name is exact, or a prefix
        such as `model.*`.
        """
        request = WatchEventsRequest(
            after_sequence=after_sequence,
            log_id=log_id,
            names=names,
            services=services,
            correlation_id=correlation_id,
        )
        return self._calls.stream(self._telemetry.WatchEvents, request, timeout_s, safe=True)

    def follow_events(
        self,
        *,
        after_sequence: int | None = None,
        names: Sequence[str] = (),
        services: Sequence[str] = (),
        correlation_id: str = "",
        on_lost: Callable[[MeshError], None] = lambda _: None,
    ) -> AsyncGenerator[WatchEventsResponse]:
        """Like watch_events, but reconnects whenever the gateway is lost, and never ends.

        `on_lost` is called after each loss. A Gap reports the events that may be missing.
        """

        def open_(sequence: int | None, log_id: str) -> AsyncGenerator[WatchEventsResponse]:
            return self.watch_events(
                after_sequence=sequence,
                log_id=log_id,
                names=names,
                services=services,
                correlation_id=correlation_id,
            )

        return follow(open_, after_sequence, on_lost=on_lost)

    async def telemetry_sinks(
        self, *, timeout_s: float | None = None
    ) -> list[telemetry_pb.TelemetrySink]:
        """Returns the gateway's telemetry sinks, and how much each one exported and dropped."""
        return list((await self.mesh_state(timeout_s=timeout_s)).telemetry_sinks)

    async def trace(
        self, request_id: str = "", *, trace_id: str = "", timeout_s: float | None = None
    ) -> telemetry_pb.GetTraceResponse:
        """Returns the spans of one request, by request id or trace id. Raises: TraceNotFound."""
        by_trace = telemetry_pb.GetTraceRequest(trace_id=trace_id)
        request = by_trace if trace_id else telemetry_pb.GetTraceRequest(request_id=request_id)
        return await self._calls.unary(self._telemetry.GetTrace, request, timeout_s, safe=True)

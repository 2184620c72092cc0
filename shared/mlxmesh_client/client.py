"""The client: one method per RPC, with Python arguments in and typed messages out."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from types import TracebackType
from typing import Self, Unpack

from mlxmesh.generation.v1.generation_pb2 import (
    AttachGenerationRequest,
    CancelGenerationRequest,
    CompleteRequest,
    CompleteResponse,
    CountTokensResponse,
    GenerateRequest,
    GenerateResponse,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.model.v1.model_pb2 import (
    DeleteModelRequest,
    GetModelRequest,
    ImportModelRequest,
    ImportModelResponse,
    ListModelsRequest,
    LoadModelRequest,
    LoadModelResponse,
    Model,
    ModelVersion,
    PullModelRequest,
    PullModelResponse,
    RegisterModelRequest,
    RegisterModelResponse,
    SetAliasRequest,
    UnloadModelRequest,
    WatchModelsRequest,
    WatchModelsResponse,
)
from mlxmesh.model.v1.model_pb2_grpc import ModelServiceStub
from mlxmesh.telemetry.v1.events_pb2 import WatchEventsRequest, WatchEventsResponse
from mlxmesh.telemetry.v1.telemetry_pb2 import (
    GetMeshStatusRequest,
    GetMeshStatusResponse,
    GetTraceRequest,
    GetTraceResponse,
    Instance,
    TelemetrySink,
)
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceStub
from mlxmesh_client.calls import Calls
from mlxmesh_client.events import GenerationEvent
from mlxmesh_client.following import follow
from mlxmesh_client.reading import read_to_end
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
CANCEL_TIMEOUT_S = 1.0


class MeshClient:
    """A connection to a gateway; every method raises MeshError subclasses.

    `timeout_s` bounds one call, its retries included; without one the gateway's default holds.
    `attempts` is how often a call that is safe to repeat is tried when the mesh is unavailable.
    `gateways` are further ones of the same mesh, for generations whose gateway is lost.
    With one gateway, it may take 10 s to connect and 5 s to answer a ping before it counts as gone;
    with several 1 s and 0.5 s, since another can be asked.
    `tls` names the certificates for a gateway with TLS; renewed ones hold from the next call on.

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
        self._gateways = [GenerationServiceStub(channel) for channel in self._channels]
        self._generation = self._gateways[0]
        self._models = ModelServiceStub(self._channels[0])
        self._telemetry = TelemetryServiceStub(self._channels[0])
        self._timeout_s = timeout_s
        self._calls = Calls(attempts=attempts)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; running calls end."""
        for channel in self._channels:
            await channel.close()

    async def generate(
        self, model: str, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncGenerator[GenerationEvent]:
        """Streams one generation; leaving the loop early cancels it, unless you gave a request_id.

        With one, it can be read on with `attach`. With several gateways, the loss of one goes
        unnoticed. Raises ServiceUnavailable when the stream ends without its Finished event.
        """
        request = generate_request(model, options)
        limit_s = self._limit_s(timeout_s)
        made_up = not request.request_id and len(self._gateways) > 1
        if made_up:
            request.request_id = f"client-{secrets.token_hex(8)}"
        gateways = [partial(self._generated, stub, request, limit_s) for stub in self._gateways]
        attachable = bool(request.request_id)
        try:
            async with aclosing(read_to_end(gateways, attachable=attachable)) as events:
                async for event in events:
                    yield event
        except (GeneratorExit, asyncio.CancelledError):
            if made_up:
                with suppress(MeshError):
                    await self.cancel(request.request_id, timeout_s=CANCEL_TIMEOUT_S)
            raise

    async def attach(
        self, request_id: str, *, after_sequence: int = 0, timeout_s: float | None = None
    ) -> AsyncGenerator[GenerationEvent]:
        """Streams what a generation gave after a sequence number, and what it still gives.

        Only one reader can have it: the stream that was open before ends with ReaderReplaced.
        """
        limit_s = self._limit_s(timeout_s)
        gateways = [partial(self._attached, stub, request_id, limit_s) for stub in self._gateways]
        reading = read_to_end(gateways, after_sequence=after_sequence, attachable=True)
        async with aclosing(reading) as events:
            async for event in events:
                yield event

    async def complete(
        self, model: str, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> CompleteResponse:
        """Generates and returns the whole answer."""
        request = CompleteRequest(generation=generate_request(model, options))
        return await self._calls.unary(
            self._generation.Complete, request, self._limit_s(timeout_s), safe=True
        )

    async def cancel(self, request_id: str, *, timeout_s: float | None = None) -> None:
        """Ends a running generation; its stream gets Finished with reason CANCELLED."""
        await self._calls.unary(
            self._generation.CancelGeneration,
            CancelGenerationRequest(request_id=request_id),
            self._limit_s(timeout_s),
            safe=True,
        )

    async def count_tokens(
        self,
        model: str,
        *,
        return_token_ids: bool = False,
        timeout_s: float | None = None,
        **options: Unpack[InputOptions],
    ) -> CountTokensResponse:
        """Counts the tokens that a prompt or a conversation comes to."""
        request = count_request(model, options, return_token_ids=return_token_ids)
        return await self._calls.unary(
            self._generation.CountTokens, request, self._limit_s(timeout_s), safe=True
        )

    async def list_models(self, *, timeout_s: float | None = None) -> list[Model]:
        """Every model of the catalogue, by name."""
        models: list[Model] = []
        page_token = ""
        while True:
            page = await self._calls.unary(
                self._models.ListModels,
                ListModelsRequest(page_token=page_token),
                self._limit_s(timeout_s),
                safe=True,
            )
            models.extend(page.models)
            page_token = page.next_page_token
            if not page_token:
                return models

    async def get_model(self, model: str, *, timeout_s: float | None = None) -> Model:
        """One model; with a version or an alias, that version alone."""
        request = GetModelRequest(model=model)
        response = await self._calls.unary(
            self._models.GetModel, request, self._limit_s(timeout_s), safe=True
        )
        return response.model

    async def register_model(
        self, *, name: str, directory: str, timeout_s: float | None = None
    ) -> RegisterModelResponse:
        """Registers an absolute directory on the model service's host as a new version."""
        request = RegisterModelRequest(name=name, directory=directory)
        return await self._calls.unary(
            self._models.RegisterModel, request, self._limit_s(timeout_s), safe=False
        )

    def import_model(
        self, *, name: str, file: str, dtype: str = "", timeout_s: float | None = None
    ) -> AsyncGenerator[ImportModelResponse]:
        """Converts an absolute GGUF file on the model service's host, and registers it; the last
        progress message holds the version.
        """
        request = ImportModelRequest(name=name, file=file, dtype=dtype)
        return self._calls.stream(
            self._models.ImportModel, request, self._limit_s(timeout_s), safe=False
        )

    def pull_model(
        self,
        repo_id: str,
        *,
        revision: str = "",
        name: str = "",
        file: str = "",
        dtype: str = "",
        timeout_s: float | None = None,
    ) -> AsyncGenerator[PullModelResponse]:
        """Downloads a model from a hub, as a GGUF file where one is named; the last progress
        message holds the version.
        """
        request = PullModelRequest(
            repo_id=repo_id, revision=revision, name=name, file=file, dtype=dtype
        )
        return self._calls.stream(
            self._models.PullModel, request, self._limit_s(timeout_s), safe=False
        )

    def load_model(
        self, model: str, *, replicas: int | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[LoadModelResponse]:
        """Loads a model; with the last progress message all its replicas are ready."""
        request = LoadModelRequest(model=model, replicas=replicas)
        return self._calls.stream(
            self._models.LoadModel, request, self._limit_s(timeout_s), safe=False
        )

    async def unload_model(self, model: str, *, timeout_s: float | None = None) -> ModelVersion:
        """Drains and unloads every replica of a model."""
        request = UnloadModelRequest(model=model)
        response = await self._calls.unary(
            self._models.UnloadModel, request, self._limit_s(timeout_s), safe=False
        )
        return response.version

    async def delete_model(self, model: str, *, timeout_s: float | None = None) -> None:
        """Removes a version, or a whole model, that is not loaded."""
        request = DeleteModelRequest(model=model)
        await self._calls.unary(
            self._models.DeleteModel, request, self._limit_s(timeout_s), safe=False
        )

    async def set_alias(
        self, *, name: str, alias: str, version: int, timeout_s: float | None = None
    ) -> Model:
        """Points an alias at a version; version 0 removes it."""
        request = SetAliasRequest(name=name, alias=alias, version=version)
        response = await self._calls.unary(
            self._models.SetAlias, request, self._limit_s(timeout_s), safe=False
        )
        return response.model

    def watch_models(
        self, *, after_sequence: int = 0, timeout_s: float | None = None
    ) -> AsyncGenerator[WatchModelsResponse]:
        """Every model as it is, then each change; go on from the last sequence seen."""
        request = WatchModelsRequest(after_sequence=after_sequence)
        return self._calls.stream(
            self._models.WatchModels, request, self._limit_s(timeout_s), safe=True
        )

    async def mesh_status(self, *, timeout_s: float | None = None) -> list[Instance]:
        """Every process of the mesh as the gateway sees it, by kind and id."""
        return list((await self.mesh_state(timeout_s=timeout_s)).instances)

    async def mesh_state(self, *, timeout_s: float | None = None) -> GetMeshStatusResponse:
        """Every process of the mesh, and what passed through its gateways in the last minute."""
        return await self._calls.unary(
            self._telemetry.GetMeshStatus,
            GetMeshStatusRequest(),
            self._limit_s(timeout_s),
            safe=True,
        )

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
        """The events that the gateway has kept, EventsSynced, then each as it happens.

        To go on, pass `sequence` and `log_id` of the last message. A name is exact, or `model.*`.
        """
        request = WatchEventsRequest(
            after_sequence=after_sequence,
            log_id=log_id,
            names=names,
            services=services,
            correlation_id=correlation_id,
        )
        return self._calls.stream(
            self._telemetry.WatchEvents, request, self._limit_s(timeout_s), safe=True
        )

    def follow_events(
        self,
        *,
        after_sequence: int | None = None,
        names: Sequence[str] = (),
        services: Sequence[str] = (),
        correlation_id: str = "",
        on_lost: Callable[[MeshError], None] = lambda _: None,
    ) -> AsyncGenerator[WatchEventsResponse]:
        """As watch_events, but it never ends: it goes on when the gateway is back.

        `on_lost` is told of each loss. What may be missing then is told by a Gap.
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

    async def telemetry_sinks(self, *, timeout_s: float | None = None) -> list[TelemetrySink]:
        """Where the gateway passes telemetry on to, and how much each sink took and lost."""
        return list((await self.mesh_state(timeout_s=timeout_s)).telemetry_sinks)

    async def trace(
        self, request_id: str = "", *, trace_id: str = "", timeout_s: float | None = None
    ) -> GetTraceResponse:
        """The spans of one request, by its id or by its trace's. Raises: TraceNotFound."""
        by_trace = GetTraceRequest(trace_id=trace_id)
        request = by_trace if trace_id else GetTraceRequest(request_id=request_id)
        limit_s = self._limit_s(timeout_s)
        return await self._calls.unary(self._telemetry.GetTrace, request, limit_s, safe=True)

    def _generated(
        self,
        stub: GenerationServiceStub,
        request: GenerateRequest,
        timeout_s: float | None,
        after_sequence: int,
    ) -> AsyncGenerator[GenerateResponse]:
        if after_sequence:
            return self._attached(stub, request.request_id, timeout_s, after_sequence)
        return self._calls.stream(stub.Generate, request, timeout_s, safe=True)

    async def _attached(
        self,
        stub: GenerationServiceStub,
        request_id: str,
        timeout_s: float | None,
        after_sequence: int,
    ) -> AsyncGenerator[GenerateResponse]:
        request = AttachGenerationRequest(request_id=request_id, after_sequence=after_sequence)
        answers = self._calls.stream(stub.AttachGeneration, request, timeout_s, safe=True)
        async with aclosing(answers):
            async for answer in answers:
                yield answer.message

    def _limit_s(self, timeout_s: float | None) -> float | None:
        return self._timeout_s if timeout_s is None else timeout_s

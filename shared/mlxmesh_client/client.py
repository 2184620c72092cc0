"""The client: one method per RPC, with Python arguments in and typed messages out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import TYPE_CHECKING, Self, Unpack

from mlxmesh.generation.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mlxmesh.generation.v1.generation_pb2 import (
    CompleteRequest,
    CompleteResponse,
    CountTokensResponse,
    GetGenerationRequest,
    GetGenerationResponse,
    GetOutputFormatRequest,
    GetOutputFormatResponse,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.model.v1.ensemble_pb2_grpc import EnsembleServiceStub
from mlxmesh.model.v1.experiment_pb2_grpc import ExperimentServiceStub
from mlxmesh.model.v1.history_pb2_grpc import HistoryServiceStub
from mlxmesh.model.v1.hub_pb2_grpc import HubServiceStub
from mlxmesh.model.v1.model_pb2_grpc import ModelServiceStub
from mlxmesh.model.v1.profile_pb2_grpc import ProfileServiceStub
from mlxmesh.model.v1.rollout_pb2_grpc import RolloutServiceStub
from mlxmesh.model.v1.shadow_pb2_grpc import ShadowServiceStub
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceStub
from mlxmesh_client.artifacts import ArtifactMethods
from mlxmesh_client.calls import Calls
from mlxmesh_client.credentials import ApiKey, check_encryption, chosen_key
from mlxmesh_client.embeddings import EmbeddingMethods
from mlxmesh_client.ensembles import EnsembleMethods
from mlxmesh_client.experiments import ExperimentMethods
from mlxmesh_client.generations import GenerationStreams
from mlxmesh_client.history import HistoryMethods
from mlxmesh_client.hub import HubMethods
from mlxmesh_client.models import ModelMethods
from mlxmesh_client.options import GenerateOptions, InputOptions
from mlxmesh_client.outputs import GenerationEvent
from mlxmesh_client.profiles import ProfileMethods
from mlxmesh_client.request import count_request, generate_request
from mlxmesh_client.rollouts import RolloutMethods
from mlxmesh_client.shadows import ShadowMethods
from mlxmesh_client.telemetry import TelemetryMethods
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, SHORT_TIMEOUTS, open_channel
from mlxmesh_shared.tls import CertificateFiles, CertificateSource

if TYPE_CHECKING:
    from mlxmesh_client.access import AccessClient
    from mlxmesh_client.adapters import AdaptersClient
    from mlxmesh_client.files import FilesClient
    from mlxmesh_client.jobs import JobsClient
    from mlxmesh_client.live import LiveClient
    from mlxmesh_client.tools import ToolsClient

DEFAULT_ADDRESS = "127.0.0.1:50051"


class MeshClient(
    ArtifactMethods,
    EmbeddingMethods,
    EnsembleMethods,
    ExperimentMethods,
    HistoryMethods,
    HubMethods,
    ModelMethods,
    ProfileMethods,
    RolloutMethods,
    ShadowMethods,
    TelemetryMethods,
):
    """A connection to a gateway; every method raises MeshError subclasses.

    `timeout_s` bounds one call including its retries; without it the gateway's default applies.
    `attempts` is the total number of attempts of a safe call while the mesh is unavailable.
    `gateways` are further gateways of the same mesh, which resume generations of a lost one.
    A single gateway counts as lost after 10 s without a connection or 5 s without a reply to a
    ping; with several gateways, after 1 s and 0.5 s.
    `tls` names the certificates for a gateway with TLS; the next call uses renewed ones.
    `api_key` is sent with every call: a key, or a function that returns the key or access token
    for the next call. By default it is the environment's MLXMESH_API_KEY; "" sends none. Without
    TLS it is only sent to this machine, unless `insecure_key` allows more (InvalidArgument).
    `access` has the methods for users, keys, quotas and usage, `adapters` those for LoRA adapters,
    `jobs` those for durable jobs, `files` those for their files, `tools` those for MCP servers and
    their tools, and `live` those for live state, recent requests, hosts and logs.

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
        api_key: ApiKey | None = None,
        insecure_key: bool = False,
    ) -> None:
        key = chosen_key(api_key)
        if key and tls is None and not insecure_key:
            check_encryption((address, *gateways))
        certificates = CertificateSource(tls) if tls is not None else None
        timeouts = SHORT_TIMEOUTS if gateways else LONG_TIMEOUTS
        self._channels = [
            open_channel(each, role="gateway", certificates=certificates, timeouts=timeouts)
            for each in (address, *gateways)
        ]
        stubs = [GenerationServiceStub(channel) for channel in self._channels]
        self._generation = stubs[0]
        self._embeddings = EmbeddingServiceStub(self._channels[0])
        self._history = HistoryServiceStub(self._channels[0])
        self._hub = HubServiceStub(self._channels[0])
        self._models = ModelServiceStub(self._channels[0])
        self._ensembles = EnsembleServiceStub(self._channels[0])
        self._experiments = ExperimentServiceStub(self._channels[0])
        self._profiles = ProfileServiceStub(self._channels[0])
        self._rollouts = RolloutServiceStub(self._channels[0])
        self._shadows = ShadowServiceStub(self._channels[0])
        self._telemetry = TelemetryServiceStub(self._channels[0])
        self._calls = Calls(attempts=attempts, default_timeout_s=timeout_s, api_key=key)
        self._streams = GenerationStreams(stubs, self._calls)

    @cached_property
    def access(self) -> AccessClient:
        """The methods for users, keys, quotas and usage, imported when they are first used."""
        from mlxmesh_client.access import AccessClient

        return AccessClient(self._channels[0], self._calls)

    @cached_property
    def jobs(self) -> JobsClient:
        """The methods for jobs, queues and workers, imported when they are first used."""
        from mlxmesh_client.jobs import JobsClient

        return JobsClient(self._channels[0], self._calls)

    @cached_property
    def live(self) -> LiveClient:
        """The methods for live state, recent requests, hosts, settings and logs."""
        from mlxmesh_client.live import LiveClient

        return LiveClient(self._channels[0], self._calls)

    @cached_property
    def files(self) -> FilesClient:
        """The methods for files of jobs, imported when they are first used."""
        from mlxmesh_client.files import FilesClient

        return FilesClient(self._channels[0], self._calls)

    @cached_property
    def adapters(self) -> AdaptersClient:
        """The methods for LoRA adapters of models, imported when they are first used."""
        from mlxmesh_client.adapters import AdaptersClient

        return AdaptersClient(self._channels[0], self._calls)

    @cached_property
    def tools(self) -> ToolsClient:
        """The methods for MCP servers and their tools, imported when they are first used."""
        from mlxmesh_client.tools import ToolsClient

        return ToolsClient(self._channels[0], self._calls)

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
        of one is not noticed. With `n` outputs, `index` of an event says which one it belongs to;
        `Outputs` joins the events to whole outputs. Raises ServiceUnavailable when the stream ends
        without its last event.
        """
        stream = self._streams.generate(generate_request(model, options), timeout_s)
        async with aclosing(stream) as events:
            async for event in events:
                yield event

    def attach(
        self,
        request_id: str,
        *,
        after_sequence: int = 0,
        numbering: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[GenerationEvent]:
        """Streams the events of a generation after a sequence number, past and future ones.

        after_sequence, numbering: `sequence` and `numbering` of the last event. Without the second
        a stream that moved between instances may resume at a wrong token.

        A generation has one reader: the stream that was open before ends with ReaderReplaced.
        """
        return self._streams.attach(request_id, (after_sequence, numbering), timeout_s)

    async def complete(
        self, model: str, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> CompleteResponse:
        """Generates a response and returns it whole.

        The fields of the response are those of the first output; with `n` above 1 the rest is in
        `other_outputs`.

            tools = [{"name": "add", "parameters": {"type": "object", "properties": {...}}}]
            response = await mesh.complete("qwen", messages=messages, tools=tools)
            for call in response.tool_calls:
                print(call.name, json.loads(call.arguments))
        """
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
        """Counts the tokens of a prompt, or of a conversation with its tools."""
        request = count_request(model, options, return_token_ids=return_token_ids)
        return await self._calls.unary(self._generation.CountTokens, request, timeout_s, safe=True)

    async def get_output_format(
        self, model: str, *, timeout_s: float | None = None
    ) -> GetOutputFormatResponse:
        """Returns how a model's tool calls and reasoning are read, and why so."""
        request = GetOutputFormatRequest(model=model)
        call = self._generation.GetOutputFormat
        return await self._calls.unary(call, request, timeout_s, safe=True)

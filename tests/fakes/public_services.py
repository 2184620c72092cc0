"""The services behind the gateway, as scripts: what they answer is what a test set."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.generation.v1 import embedding_pb2 as e
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.embedding_pb2_grpc import (
    EmbeddingServiceServicer,
    add_EmbeddingServiceServicer_to_server,
)
from mlxmesh.generation.v1.generation_pb2_grpc import (
    GenerationServiceServicer,
    add_GenerationServiceServicer_to_server,
)
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh.model.v1.model_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from mlxmesh_generation.relay.servicer import RELAY, Relays
from mlxmesh_shared.errors import GenerationNotFound, MeshError, ModelNotFound, ServiceUnavailable
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions, remaining_s
from tests.fakes.scripted import complete_response, numbered

GENERATION = g.DESCRIPTOR.services_by_name["GenerationService"].full_name
EMBEDDINGS = e.DESCRIPTOR.services_by_name["EmbeddingService"].full_name
MODEL = m.DESCRIPTOR.services_by_name["ModelService"].full_name


class FakeGeneration(GenerationServiceServicer):
    """Answers with the words of the prompt, one delta each."""

    def __init__(self, engine_id: str = "engine-1") -> None:
        self.engine_id = engine_id
        self.failures: list[MeshError | Exception] = []
        """Raised by the next calls, one each, before any message."""
        self.break_after: int | None = None
        """Raises ValueError after so many deltas."""
        self.truncate_after: int | None = None
        """Ends streams as if all were well after so many deltas."""
        self.truncations: list[int] = []
        """The same for the next streams, one each; several fakes may share the list."""
        self.finishes = True
        self.finish_reason = g.FINISH_REASON_STOP
        self.script: list[g.GenerateResponse] | None = None
        """What Generate and Complete answer instead of the words, after Started."""
        self.go_on = asyncio.Event()
        """Cleared, it holds back streams after their first delta, and news of what is not there."""
        self.go_on.set()
        self.requests: list[g.GenerateRequest] = []
        self.remaining_s: list[float | None] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.resumed: list[g.ResumeGenerationRequest] = []
        self.kept: dict[str, list[g.GenerateResponse]] = {}
        """The messages of generations that may be attached to."""
        self.running: set[str] = set()
        self.cancelled: list[str] = []
        self.interrupted = 0

        self.embeddings = FakeEmbeddings(self)
        self.relays = 0
        """Relays that were opened here."""
        self.relay_service = Relays(lambda method, handler: self.server.guarded(method, handler))
        self._relays: set[asyncio.Future[None]] = set()
        self.server: MeshServer
        """Set by `generation_server`."""

    def Relay(self, request_iterator: Any, context: Any) -> Any:
        return self._relay(request_iterator, context)

    async def _relay(self, request_iterator: Any, context: Any) -> None:
        self.relays += 1
        serving = asyncio.ensure_future(self.relay_service.serve(self, request_iterator, context))
        self._relays.add(serving)
        try:
            await asyncio.wait({serving})
        finally:
            self._relays.discard(serving)
            broken = serving.cancelled()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        if broken:
            raise ServiceUnavailable("the relay broke")
        serving.result()

    @property
    def open_relays(self) -> int:
        return len(self._relays)

    def end_relays(self) -> None:
        """Ends the relays that are open, as a broken connection does."""
        for task in self._relays:
            task.cancel()

    def _enter(self, context: Any) -> None:
        self.remaining_s.append(remaining_s(context))
        self.metadata.append(dict(context.invocation_metadata()))
        if self.failures:
            raise self.failures.pop(0)

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[g.GenerateResponse]:
        self.requests.append(request)
        self._enter(context)
        started = g.Started(
            request_id=request.request_id or "r-1",
            engine_id=self.engine_id,
            model=request.model,
            model_version=1,
            seed=7,
        )
        yield g.GenerateResponse(sequence=1, started=started)
        if self.script is not None:
            for number, scripted in enumerate(self.script, 2):
                yield numbered(scripted, number)
            return
        async for response in self._outputs(request, {}, 1, 0):
            yield response

    async def ResumeGeneration(
        self, request: Any, context: Any
    ) -> AsyncIterator[g.ResumeGenerationResponse]:
        self.resumed.append(request)
        self._enter(context)
        outputs = {output.index: output for output in request.outputs}
        rest = self._outputs(
            request.generation, outputs, request.after_sequence, request.resumptions + 1
        )
        async for response in rest:
            yield g.ResumeGenerationResponse(message=response)

    async def AttachGeneration(
        self, request: Any, context: Any
    ) -> AsyncIterator[g.AttachGenerationResponse]:
        self._enter(context)
        if request.request_id not in self.kept:
            await self.go_on.wait()
            raise GenerationNotFound(f"no generation {request.request_id} is kept here")
        messages = self.kept[request.request_id]
        for response in messages[request.after_sequence :]:
            attached = g.AttachGenerationResponse(message=response)
            if response.sequence == request.after_sequence + 1:
                attached.started.CopyFrom(messages[0].started)
            yield attached

    async def _outputs(
        self,
        request: g.GenerateRequest,
        received: Mapping[int, g.ReceivedOutput],
        sequence: int,
        resumptions: int,
    ) -> AsyncIterator[g.GenerateResponse]:
        """The words for each output in turn, but those that were received."""
        words, outputs = _text(request).split(), range(request.n or 1)
        truncate_after = self.truncations.pop(0) if self.truncations else self.truncate_after
        known = {index: len(output.token_ids) for index, output in received.items()}
        try:
            for place, word in enumerate(words):
                for index in outputs:
                    if place < known.get(index, 0):
                        continue
                    if self.break_after == place:
                        raise ValueError(f"secret: {words}")
                    if truncate_after == place:
                        return
                    sequence += 1
                    delta = _delta(index, place, word)
                    yield g.GenerateResponse(sequence=sequence, delta=delta)
                    await self.go_on.wait()
        except asyncio.CancelledError:
            self.interrupted += 1
            raise
        left = [index for index in outputs if not _has_ended(received.get(index))]
        for index in left if self.finishes else ():
            sequence += 1
            finished = g.Finished(index=index, finish_reason=self.finish_reason)
            finished.timings.resumptions = resumptions
            if index == left[-1]:
                finished.total_usage.SetInParent()
            yield g.GenerateResponse(sequence=sequence, finished=finished)

    async def Complete(self, request: Any, context: Any) -> g.CompleteResponse:
        self.requests.append(request.generation)
        self._enter(context)
        generation = request.generation
        started = g.Started(
            request_id=generation.request_id or "r-1", model=generation.model, model_version=1
        )
        if self.script is not None:
            return complete_response(started, self.script)
        finished = g.Finished(finish_reason=self.finish_reason, total_usage=g.Usage())
        return g.CompleteResponse(started=started, text=_text(generation), finished=finished)

    async def GetGeneration(self, request: Any, context: Any) -> g.GetGenerationResponse:
        self._enter(context)
        if request.request_id not in self.kept:
            await self.go_on.wait()
            raise GenerationNotFound(f"no generation {request.request_id} is kept here")
        response = g.GetGenerationResponse()
        for message in self.kept[request.request_id]:
            response.text += message.delta.text
            response.token_ids.extend(message.delta.token_ids)
            if message.HasField("started"):
                response.started.CopyFrom(message.started)
            if message.HasField("finished"):
                response.finished.CopyFrom(message.finished)
        return response

    async def CancelGeneration(self, request: Any, context: Any) -> g.CancelGenerationResponse:
        self._enter(context)
        if request.request_id not in self.running:
            await self.go_on.wait()
            raise GenerationNotFound(f"no generation {request.request_id} runs here")
        self.cancelled.append(request.request_id)
        return g.CancelGenerationResponse()

    async def CountTokens(self, request: Any, context: Any) -> g.CountTokensResponse:
        self._enter(context)
        return g.CountTokensResponse(tokens=len(request.prompt.split()))

    def enter(self, context: Any) -> None:
        """As every call does. Raises: what the next call is to fail with."""
        self._enter(context)

    async def GetOutputFormat(self, request: Any, context: Any) -> g.GetOutputFormatResponse:
        self._enter(context)
        return g.GetOutputFormatResponse(
            tool_format="hermes",
            tool_reason="the chat template contains <tool_call>",
            reasoning_reason="the chat template contains no marks of reasoning that are known",
        )


def _delta(index: int, place: int, word: str) -> g.Delta:
    """Text in outputs 0 and 3, arguments of a call in output 1, reasoning in output 2."""
    delta = g.Delta(index=index, token_ids=[place])
    if index % 3 == 1:
        piece = delta.tool_calls.add(arguments=word + " ")
        if not place:
            piece.id, piece.name = f"call-{index}", "tool"
    elif index % 3 == 2:
        delta.reasoning_text = word + " "
    else:
        delta.text = word + " "
    return delta


def _has_ended(received: g.ReceivedOutput | None) -> bool:
    return received is not None and received.HasField("finished")


def _text(request: g.GenerateRequest) -> str:
    """The prompt, or the last message."""
    return request.prompt or (request.chat.messages[-1].content if request.chat.messages else "")


class FakeModels(ModelServiceServicer):
    """A catalogue of names; pages hold two models."""

    def __init__(self) -> None:
        self.models: dict[str, m.Model] = {}
        self.upstream_failure: Failure | None = None
        """What the health checks of upstreams find."""
        self.failures: list[MeshError] = []
        self.calls: list[Any] = []

    def _enter(self, request: Any) -> None:
        self.calls.append(request)
        if self.failures:
            raise self.failures.pop(0)

    def _find(self, reference: str) -> m.Model:
        name = reference if reference in self.models else reference.partition("@")[0]
        if name not in self.models:
            raise ModelNotFound(f"no model {name}; `mlxmesh models` lists them", field="model")
        return self.models[name]

    async def PullModel(self, request: Any, context: Any) -> AsyncIterator[m.PullModelResponse]:
        self._enter(request)
        name = request.name or request.repo_id.partition("/")[2]
        yield m.PullModelResponse(name=name, done_bytes=1, total_bytes=2)
        version = m.ModelVersion(version=1, state=m.VERSION_STATE_AVAILABLE)
        yield m.PullModelResponse(name=name, done_bytes=2, total_bytes=2, version=version)

    async def RegisterModel(self, request: Any, context: Any) -> m.RegisterModelResponse:
        self._enter(request)
        version = m.ModelVersion(version=1, source=request.directory)
        model = self.models[request.name] = m.Model(
            name=request.name, versions=[version], default_version=1
        )
        return m.RegisterModelResponse(model=model, version=1)

    async def RegisterUpstream(self, request: Any, context: Any) -> m.RegisterUpstreamResponse:
        self._enter(request)
        version = m.ModelVersion(
            version=1,
            state=m.VERSION_STATE_READY,
            source=request.upstream.base_url,
            desired_replicas=1,
            ready_replicas=1,
            upstream=request.upstream,
        )
        if self.upstream_failure is not None:
            version.state, version.ready_replicas = m.VERSION_STATE_FAILED, 0
            version.failure.CopyFrom(self.upstream_failure)
        model = self.models[request.name] = m.Model(
            name=request.name, versions=[version], default_version=1
        )
        return m.RegisterUpstreamResponse(model=model, version=1)

    async def ImportModel(self, request: Any, context: Any) -> AsyncIterator[m.ImportModelResponse]:
        self._enter(request)
        yield m.ImportModelResponse(name=request.name, done_bytes=1, total_bytes=2)
        version = m.ModelVersion(version=1, state=m.VERSION_STATE_AVAILABLE)
        yield m.ImportModelResponse(name=request.name, done_bytes=2, total_bytes=2, version=version)

    async def GetModel(self, request: Any, context: Any) -> m.GetModelResponse:
        self._enter(request)
        return m.GetModelResponse(model=self._find(request.model))

    async def ListModels(self, request: Any, context: Any) -> m.ListModelsResponse:
        self._enter(request)
        start = int(request.page_token or 0)
        names = sorted(self.models)
        more = str(start + 2) if start + 2 < len(names) else ""
        page = [self.models[name] for name in names[start : start + 2]]
        return m.ListModelsResponse(models=page, next_page_token=more)

    async def DeleteModel(self, request: Any, context: Any) -> m.DeleteModelResponse:
        self._enter(request)
        del self.models[self._find(request.model).name]
        return m.DeleteModelResponse()

    async def LoadModel(self, request: Any, context: Any) -> AsyncIterator[m.LoadModelResponse]:
        self._enter(request)
        for ready in range(request.replicas + 1):
            version = m.ModelVersion(version=1, ready_replicas=ready, group_size=request.group_size)
            yield m.LoadModelResponse(name=request.model, version=version)

    async def UnloadModel(self, request: Any, context: Any) -> m.UnloadModelResponse:
        self._enter(request)
        version = m.ModelVersion(version=1, state=m.VERSION_STATE_AVAILABLE)
        return m.UnloadModelResponse(version=version)

    async def SetAlias(self, request: Any, context: Any) -> m.SetAliasResponse:
        self._enter(request)
        model = self._find(request.name)
        model.aliases[request.alias] = request.version
        return m.SetAliasResponse(model=model)

    async def RequestLoad(self, request: Any, context: Any) -> m.RequestLoadResponse:
        self._enter(request)
        return m.RequestLoadResponse(version=self._find(request.name).versions[0])

    async def SetModelPolicy(self, request: Any, context: Any) -> m.SetModelPolicyResponse:
        self._enter(request)
        model = self._find(request.name)
        # MergeFrom would keep the parts of a price that are 0.
        if request.policy.HasField("price"):
            model.policy.ClearField("price")
        model.policy.MergeFrom(request.policy)
        return m.SetModelPolicyResponse(model=model)

    async def SetOutputFormat(self, request: Any, context: Any) -> m.SetOutputFormatResponse:
        self._enter(request)
        model = self._find(request.name)
        for version in model.versions:
            for name in ("tool_format", "reasoning_format"):
                if request.version in (0, version.version) and request.HasField(name):
                    setattr(version, name, getattr(request, name))
        return m.SetOutputFormatResponse(model=model)

    async def WatchModels(self, request: Any, context: Any) -> AsyncIterator[m.WatchModelsResponse]:
        self._enter(request)
        for sequence, name in enumerate(sorted(self.models), start=request.after_sequence + 1):
            yield m.WatchModelsResponse(sequence=sequence, model=self.models[name])
        yield m.WatchModelsResponse(synced=m.Synced())
        await asyncio.Event().wait()

    async def GetTokenizer(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self._enter(request)
        yield m.GetTokenizerResponse(file_name="tokenizer.json", data=b"{}")


class FakeEmbeddings(EmbeddingServiceServicer):
    """A vector of each text's length, and documents in the reverse order."""

    def __init__(self, generation: FakeGeneration) -> None:
        self._generation = generation
        self.requests: list[Any] = []

    async def Embed(self, request: e.EmbedRequest, context: Any) -> e.EmbedResponse:
        self._generation.enter(context)
        self.requests.append(request)
        lengths = [len(each.text or each.tokens.token_ids) for each in request.inputs]
        return e.EmbedResponse(
            embeddings=[e.Embedding(values=[length, -0.25]) for length in lengths],
            prompt_tokens=sum(lengths),
            model="small",
            model_version=1,
        )

    async def Rerank(self, request: e.RerankRequest, context: Any) -> e.RerankResponse:
        self._generation.enter(context)
        self.requests.append(request)
        places = list(reversed(range(len(request.documents))))
        results = [
            e.RerankResult(index=place, relevance_score=1 / (rank + 2))
            for rank, place in enumerate(places)
        ]
        return e.RerankResponse(
            results=results[: request.top_n or None],
            prompt_tokens=len(request.query),
            model="small",
            model_version=1,
        )


def generation_server(servicer: FakeGeneration, listen: str = "127.0.0.1:0") -> MeshServer:
    """A server of one fake generation instance; the caller starts and stops it."""
    servicer.server = MeshServer(
        listen=listen,
        services=[
            (add_GenerationServiceServicer_to_server, servicer),
            (add_EmbeddingServiceServicer_to_server, servicer.embeddings),
        ],
        service_names=[GENERATION, EMBEDDINGS],
        options=ServerOptions(carriers=frozenset({RELAY})),
        on_closing=servicer.relay_service.close,
    )
    return servicer.server


def model_server(servicer: FakeModels) -> MeshServer:
    """A server of a fake catalogue; the caller starts and stops it."""
    services = [(add_ModelServiceServicer_to_server, servicer)]
    return MeshServer(services=services, service_names=[MODEL])

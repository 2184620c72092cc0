"""An experiment from its start to its analysis: a real generation service, store and service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlxmesh.generation.v1.generation_pb2 import AttachGenerationRequest, GenerateRequest, Started
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.model.v1 import experiment_pb2 as pb
from mlxmesh.model.v1 import split_pb2
from mlxmesh.model.v1.experiment_pb2_grpc import (
    ExperimentServiceStub,
    add_ExperimentServiceServicer_to_server,
)
from mlxmesh_generation.assembly import Parts, make_server
from mlxmesh_generation.domain.outcome import Outcome as Ended
from mlxmesh_generation.embeddings.embeddings import Embeddings
from mlxmesh_generation.placement.demand import Demand
from mlxmesh_generation.placement.encoders import Encoders
from mlxmesh_generation.placement.engines import Engines, Replicas
from mlxmesh_generation.placement.mirror import CatalogueMirror, ModelService
from mlxmesh_generation.streams.generations import Generations, Timeouts
from mlxmesh_generation.streams.limits import GenerationLimits
from mlxmesh_generation.streams.loads import Loads
from mlxmesh_generation.streams.preparation import Preparation
from mlxmesh_generation.streams.retention import RetentionLimits
from mlxmesh_generation.streams.telemetry import GenerationTelemetry
from mlxmesh_generation.text.encoder_inputs import EncoderInputs
from mlxmesh_generation.text.prompts import Prompts
from mlxmesh_generation.text.rendering import Renderers
from mlxmesh_generation.text.tokenizers import Tokenizers
from mlxmesh_generation.text.worker_threads import FairThreadPool
from mlxmesh_generation.upstream.embedding_call import UpstreamEmbeddings
from mlxmesh_generation.upstream.upstreams import Upstreams
from mlxmesh_model import convert
from mlxmesh_model.catalogue.models import Artifact, Phase, Replica
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.experiments.controller import ExperimentController
from mlxmesh_model.experiments.recording import Recording
from mlxmesh_model.experiments.servicer import ExperimentServicer
from mlxmesh_model.experiments.store import Experiments
from mlxmesh_model.outcomes.outcome import Outcome, Status
from mlxmesh_model.outcomes.recorder import Recorder
from mlxmesh_shared.errors import MeshError, OutcomeNotFound
from mlxmesh_shared.process.service_host import running_in_background
from mlxmesh_shared.rpc.caller import OWNER_METADATA
from mlxmesh_shared.rpc.channels import ChannelPool
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import GenerationSettings
from mlxmesh_shared.sql.urls import SqliteFile
from tests.fakes.engine import FakeEngine, FakeEngineOptions
from tests.fakes.model_service import FakeModelService
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.service_process import quiet_process

ADA = ((OWNER_METADATA, "spiffe://mesh/ada#app"),)
ARMS = [
    split_pb2.SplitArm(arm="old", version=1, weight=50),
    split_pb2.SplitArm(arm="new", version=2, weight=50),
]


@dataclass
class Stand:
    """Both services, and the path between them that the reporter has in a mesh."""

    generation: GenerationServiceStub
    experiments: ExperimentServiceStub
    store: Store
    controller: ExperimentController
    recorder: Recorder
    models: FakeModelService
    ended: list[Ended]
    tokenizer_dir: Path
    batch: int = 0

    async def publish(self) -> None:
        """Lets generation see the catalogue as it is."""
        self.models.put(convert.to_model(await self.store.model("pocket")), self.tokenizer_dir)

    async def started(self, **fields: Any) -> Started:
        """Runs a generation to its end."""
        request = GenerateRequest(model="pocket", prompt="Hello", max_tokens=4, **fields)
        responses = [each async for each in self.generation.Generate(request, metadata=ADA)]
        assert responses[-1].HasField("finished")
        return next(each.started for each in responses if each.HasField("started"))

    async def record(self) -> None:
        """Records what ended since the last call."""
        self.batch += 1
        ended, self.ended[:] = [_outcome(each) for each in self.ended], []
        await self.recorder.record("generation-1", self.batch, ended)

    async def running_experiment(self) -> pb.Experiment:
        request = pb.StartExperimentRequest(name="pocket", arms=ARMS)
        started = (await self.experiments.StartExperiment(request)).experiment
        await _make_ready(self.store)
        await self.controller.advance(datetime.now(UTC))
        await self.publish()
        return (
            await self.experiments.GetExperiment(
                pb.GetExperimentRequest(experiment_id=started.experiment_id)
            )
        ).experiment


def _outcome(ended: Ended) -> Outcome:
    fields = {name: getattr(ended, name) for name in asdict(ended)}
    assignment, end_ms = fields.pop("assignment"), fields.pop("end_ms")
    status = Status(fields.pop("status").value)
    end_time = datetime.fromtimestamp(end_ms / 1000, UTC)
    return Outcome(**fields, **asdict(assignment), status=status, end_time=end_time)


async def _make_ready(store: Store) -> None:
    for version in (await store.model("pocket")).versions:
        replicas = (Replica(f"engine-{version.number}", "runtime", Phase.READY),)
        assert await store.record(version.with_replicas(replicas, None))


@pytest.fixture
async def stand(tmp_path: Path, tokenizer_dir: Path) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        store = await Store.open(SqliteFile(tmp_path / "model.db"))
        stack.push_async_callback(store.close)
        for number in (1, 2):
            digest = f"{number:064d}"
            artifact = Artifact(str(tokenizer_dir), digest, "llama", 1, 1, "float32", 1024, 500)
            await store.register("pocket", artifact)
        experiments, recording = Experiments(store), Recording(store)
        server = MeshServer(
            services=[
                (
                    add_ExperimentServiceServicer_to_server,
                    ExperimentServicer(experiments, recording, watch_interval_s=0.01),
                )
            ],
            service_names=["mlxmesh.model.v1.ExperimentService"],
        )
        address = await server.start()
        stack.push_async_callback(partial(server.drain, 0, 0))
        await server.set_serving()
        registry, models = InMemoryRegistry(), FakeModelService()
        await stack.enter_async_context(models.running())
        await registry.register(models.instance)
        for number in (1, 2):
            options = FakeEngineOptions(f"engine-{number}", model_version=number)
            engine = FakeEngine(options)
            await stack.enter_async_context(engine.running())
            await registry.register(engine.instance)
        ended: list[Ended] = []
        generation = await _generation_service(stack, tmp_path, registry, ended)
        channels = ChannelPool()
        stack.push_async_callback(channels.close)
        yield Stand(
            GenerationServiceStub(channels.get(generation.address)),
            ExperimentServiceStub(channels.get(address)),
            store,
            ExperimentController(store, experiments),
            Recorder(store, [recording.consume]),
            models,
            ended,
            tokenizer_dir,
        )


async def _generation_service(
    stack: AsyncExitStack, data_dir: Path, registry: InMemoryRegistry, ended: list[Ended]
) -> MeshServer:
    process = quiet_process(GenerationSettings(data_dir=data_dir), "generation", "generation-1")
    channels = ChannelPool()
    stack.push_async_callback(channels.close)
    models = ModelService(registry=registry, channels=channels, watch_channels=channels)
    catalogue = CatalogueMirror(models)
    engines = Engines(registry, open_=process.open_channel)
    await stack.enter_async_context(running_in_background(catalogue.run(), engines.run()))
    replicas = Replicas(engines, catalogue, Demand(models, recent_uses=engines.recent_uses))
    threads, renderers = FairThreadPool(), Renderers()
    stack.callback(threads.close)
    stack.callback(renderers.close)
    upstreams = Upstreams()
    tokenizers = Tokenizers(source=models, directory=data_dir / "tokenizers", max_loaded=2)
    limits = GenerationLimits(max_generations=100, max_held_bytes=2**24)
    telemetry = GenerationTelemetry(record=ended.append)
    preparation = Preparation(
        catalogue=catalogue,
        tokenizers=tokenizers,
        prompts=Prompts(threads, renderers),
        replicas=replicas,
        upstreams=upstreams,
    )
    generations = Generations(
        preparation=preparation,
        engines=replicas,
        timeouts=Timeouts(),
        limits=limits,
        retained=RetentionLimits(2**24, 100, 60),
        telemetry=telemetry,
    )
    embeddings = Embeddings(
        catalogue=catalogue,
        loads=Loads(tokenizers, replicas),
        inputs=EncoderInputs(threads),
        encoders=Encoders(engines, replicas),
        upstreams=UpstreamEmbeddings(upstreams),
        limits=limits,
        telemetry=telemetry,
    )
    server = make_server(process, Parts(generations, embeddings, engines, upstreams))
    await server.start()
    await server.set_serving()
    stack.push_async_callback(partial(server.drain, grace_s=0, settle_s=0))
    return server


async def test_arms_reach_the_analysis(stand: Stand) -> None:
    experiment = await stand.running_experiment()
    assert experiment.state == pb.EXPERIMENT_STATE_RUNNING
    versions = {"old": 1, "new": 2}
    arms: dict[str, str] = {}
    for turn in range(2):
        for at in range(20):
            session = f"s{at}"
            started = await stand.started(session_id=session, request_id=f"r-{turn}-{at}")
            assert started.experiment_id == experiment.experiment_id
            assert started.model_version == versions[started.arm]
            assert arms.setdefault(session, started.arm) == started.arm
    assert set(arms.values()) == {"old", "new"}
    outside = await stand.started(request_id="outside")
    assert (outside.arm, outside.experiment_id) == ("", "")
    await stand.record()
    score = pb.ReportOutcomeRequest(request_id="r-0-0", score=0.8)
    counted = await stand.experiments.ReportOutcome(score, metadata=ADA)
    assert counted == pb.ReportOutcomeResponse(
        experiment_id=experiment.experiment_id, arm=arms["s0"]
    )
    nowhere = pb.ReportOutcomeRequest(request_id="outside", score=1)
    with pytest.raises(OutcomeNotFound, match="it belongs to no experiment"):
        await stand.experiments.ReportOutcome(nowhere, metadata=ADA)
    found = await stand.experiments.AnalyzeExperiment(
        pb.AnalyzeExperimentRequest(experiment_id=experiment.experiment_id)
    )
    sizes = {arm: 2 * list(arms.values()).count(arm) for arm in versions}
    assert dict(found.requests) == sizes
    assert found.experiment.requests == 40
    by_metric = {metric.metric: metric for metric in found.metrics}
    ttft = by_metric[pb.EXPERIMENT_METRIC_TTFT]
    assert {arm.arm: arm.values for arm in ttft.arms} == sizes
    tokens = by_metric[pb.EXPERIMENT_METRIC_COMPLETION_TOKENS]
    assert [arm.mean.mean for arm in tokens.arms] == [4, 4]
    [scored] = by_metric[pb.EXPERIMENT_METRIC_SCORE].arms
    assert (scored.arm, scored.values, scored.mean.mean) == (arms["s0"], 1, 0.8)
    assert found.alpha == 0.05
    assert found.verdict


async def test_a_watch_sends_the_analysis_again_after_outcomes(stand: Stand) -> None:
    experiment_id = (await stand.running_experiment()).experiment_id
    analyze = pb.AnalyzeExperimentRequest(experiment_id=experiment_id)
    watch = aiter(stand.experiments.WatchExperiment(pb.WatchExperimentRequest(analyze=analyze)))
    assert (await anext(watch)).analysis.experiment.requests == 0
    await stand.started(session_id="s", request_id="r")
    await stand.record()
    assert (await anext(watch)).analysis.experiment.requests == 1
    await stand.experiments.StopExperiment(pb.StopExperimentRequest(experiment_id=experiment_id))
    rest = [each.analysis.experiment.state async for each in watch]
    assert rest == [pb.EXPERIMENT_STATE_STOPPED]


async def test_users_are_assigned_by_their_label(stand: Stand) -> None:
    request = pb.StartExperimentRequest(
        name="pocket", arms=ARMS, subject=split_pb2.SPLIT_SUBJECT_USER
    )
    await stand.experiments.StartExperiment(request)
    await _make_ready(stand.store)
    await stand.controller.advance(datetime.now(UTC))
    await stand.publish()
    arms = {
        user: (await stand.started(labels={"user": user}, session_id="any")).arm
        for user in map(str, range(12))
    }
    assert set(arms.values()) == {"old", "new"}
    assert (await stand.started(labels={"user": "3"}, session_id="other")).arm == arms["3"]


async def test_a_stream_keeps_its_arm_when_the_experiment_ends(stand: Stand) -> None:
    experiment = await stand.running_experiment()
    started = await stand.started(session_id="s1", request_id="r-1")
    await stand.experiments.StopExperiment(
        pb.StopExperimentRequest(experiment_id=experiment.experiment_id, winner="old")
    )
    await stand.publish()
    again = stand.generation.AttachGeneration(
        AttachGenerationRequest(request_id="r-1"), metadata=ADA
    )
    replayed = [each async for each in again]
    assert replayed[0].started.arm == started.arm
    async with asyncio.timeout(30):
        while (after := await stand.started(session_id="s1")).arm:
            await asyncio.sleep(0.01)
    assert after.model_version == 1


def _arms(*arms: tuple[str, int, int]) -> list[split_pb2.SplitArm]:
    return [split_pb2.SplitArm(arm=arm, version=of, weight=share) for arm, of, share in arms]


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"name": ""}, grpc.StatusCode.INVALID_ARGUMENT, "name"),
        ({"name": "a b"}, grpc.StatusCode.INVALID_ARGUMENT, "name"),
        ({"name": "gone"}, grpc.StatusCode.NOT_FOUND, "name"),
        ({"alias": "../x"}, grpc.StatusCode.INVALID_ARGUMENT, "alias"),
        ({"alias": "gone"}, grpc.StatusCode.NOT_FOUND, "alias"),
        ({"arms": []}, grpc.StatusCode.INVALID_ARGUMENT, "arms"),
        ({"arms": ARMS[:1]}, grpc.StatusCode.INVALID_ARGUMENT, "arms"),
        (
            {"arms": _arms(*((f"a{at}", 1, 1) for at in range(11)))},
            grpc.StatusCode.INVALID_ARGUMENT,
            "arms",
        ),
        (
            {"arms": _arms(("", 1, 50), ("b", 2, 50))},
            grpc.StatusCode.INVALID_ARGUMENT,
            "arms[0].arm",
        ),
        (
            {"arms": _arms(("a" * 65, 1, 50), ("b", 2, 50))},
            grpc.StatusCode.INVALID_ARGUMENT,
            "arms[0].arm",
        ),
        (
            {"arms": _arms(("a", 0, 50), ("b", 2, 50))},
            grpc.StatusCode.INVALID_ARGUMENT,
            "arms[0].version",
        ),
        ({"arms": _arms(("a", 9, 50), ("b", 2, 50))}, grpc.StatusCode.NOT_FOUND, "arms[0].version"),
        (
            {"arms": _arms(("a", 1, 2**31), ("b", 2, 50))},
            grpc.StatusCode.INVALID_ARGUMENT,
            "arms[0].weight",
        ),
        ({"arms": _arms(("a", 1, 50), ("b", 2, 51))}, grpc.StatusCode.INVALID_ARGUMENT, "arms"),
        (
            {"subject": split_pb2.SPLIT_SUBJECT_REQUEST},
            grpc.StatusCode.INVALID_ARGUMENT,
            "subject",
        ),
        ({"subject": 77}, grpc.StatusCode.INVALID_ARGUMENT, "subject"),
        ({"description": "x" * 1001}, grpc.StatusCode.INVALID_ARGUMENT, "description"),
        ({"experiment_id": "-x"}, grpc.StatusCode.INVALID_ARGUMENT, "experiment_id"),
    ],
)
async def test_hostile_plans_name_their_field(
    stand: Stand, fields: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    request = pb.StartExperimentRequest(**{"name": "pocket", "arms": ARMS, **fields})
    with pytest.raises(MeshError) as raised:
        await stand.experiments.StartExperiment(request)
    assert raised.value.code is code
    assert raised.value.field == field
    listed = await stand.experiments.ListExperiments(pb.ListExperimentsRequest())
    assert not listed.experiments


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("ListExperiments", pb.ListExperimentsRequest(page_token="x"), "page_token"),
        ("ListExperiments", pb.ListExperimentsRequest(page_token="9" * 99), "page_token"),
        ("ListExperiments", pb.ListExperimentsRequest(page_size=-1), "page_size"),
        ("GetExperiment", pb.GetExperimentRequest(), "experiment_id"),
        ("GetExperiment", pb.GetExperimentRequest(experiment_id="gone"), "experiment_id"),
        ("StopExperiment", pb.StopExperimentRequest(experiment_id="gone"), "experiment_id"),
        (
            "AnalyzeExperiment",
            pb.AnalyzeExperimentRequest(experiment_id="e", alpha=0.6),
            "alpha",
        ),
        (
            "AnalyzeExperiment",
            pb.AnalyzeExperimentRequest(experiment_id="e", alpha=float("nan")),
            "alpha",
        ),
        (
            "AnalyzeExperiment",
            pb.AnalyzeExperimentRequest(experiment_id="e", metrics=[99]),  # pyright: ignore[reportArgumentType]
            "metrics[0]",
        ),
        ("AnalyzeExperiment", pb.AnalyzeExperimentRequest(experiment_id="e"), "experiment_id"),
        ("ReportOutcome", pb.ReportOutcomeRequest(request_id="r", score=float("nan")), "score"),
        ("ReportOutcome", pb.ReportOutcomeRequest(request_id="r", score=float("inf")), "score"),
        ("ReportOutcome", pb.ReportOutcomeRequest(request_id="r", score=1e7), "score"),
        ("ReportOutcome", pb.ReportOutcomeRequest(request_id="a b", score=1), "request_id"),
        ("ReportOutcome", pb.ReportOutcomeRequest(request_id="gone", score=1), "request_id"),
    ],
)
async def test_hostile_requests_name_their_field(
    stand: Stand, method: str, request_: Any, field: str
) -> None:
    with pytest.raises(MeshError) as raised:
        await getattr(stand.experiments, method)(request_, metadata=ADA)
    assert raised.value.code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
    )
    assert raised.value.field == field


async def test_pages_have_tokens(stand: Stand) -> None:
    for number in range(3):
        request = pb.StartExperimentRequest(name="pocket", arms=ARMS, experiment_id=f"e-{number}")
        await stand.experiments.StartExperiment(request)
        await stand.experiments.StopExperiment(
            pb.StopExperimentRequest(experiment_id=f"e-{number}")
        )
    first = await stand.experiments.ListExperiments(pb.ListExperimentsRequest(page_size=2))
    assert [each.experiment_id for each in first.experiments] == ["e-2", "e-1"]
    rest = pb.ListExperimentsRequest(page_size=2, page_token=first.next_page_token)
    last = await stand.experiments.ListExperiments(rest)
    assert [each.experiment_id for each in last.experiments] == ["e-0"]
    assert last.next_page_token == ""

"""ExperimentService: each method checks, calls and replies."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.model.v1 import experiment_pb2 as pb
from mlxmesh.model.v1 import experiment_pb2_grpc
from mlxmesh_model.experiments import convert
from mlxmesh_model.experiments.analysis import analyze
from mlxmesh_model.experiments.experiment import State
from mlxmesh_model.experiments.recording import Recording
from mlxmesh_model.experiments.store import Experiments
from mlxmesh_model.paging import number_of_page_token
from mlxmesh_shared.rpc.caller import forwarded_owner

_Context = ServicerContext[Any, Any]

_DEFAULT_PAGE_SIZE = 100
_DEFAULT_ALPHA = 0.05
_WATCH_INTERVAL_S = 5.0


class ExperimentServicer(experiment_pb2_grpc.ExperimentServiceServicer):
    """Experiments over gRPC; the contract documents each method."""

    def __init__(
        self,
        experiments: Experiments,
        recording: Recording,
        *,
        watch_interval_s: float = _WATCH_INTERVAL_S,
    ) -> None:
        self._watch_interval_s = watch_interval_s
        self._experiments = experiments
        self._recording = recording

    async def StartExperiment(
        self, request: pb.StartExperimentRequest, context: _Context
    ) -> pb.StartExperimentResponse:
        plan = convert.to_plan(request)
        experiment = await self._experiments.start(plan, request.experiment_id)
        return pb.StartExperimentResponse(experiment=convert.to_experiment(experiment))

    async def GetExperiment(
        self, request: pb.GetExperimentRequest, context: _Context
    ) -> pb.GetExperimentResponse:
        experiment = await self._experiments.get(request.experiment_id)
        return pb.GetExperimentResponse(experiment=convert.to_experiment(experiment))

    async def ListExperiments(
        self, request: pb.ListExperimentsRequest, context: _Context
    ) -> pb.ListExperimentsResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        before = number_of_page_token(request.page_token)
        found = await self._experiments.page(model=request.name, before=before, limit=size + 1)
        page = found[:size]
        return pb.ListExperimentsResponse(
            experiments=map(convert.to_experiment, page),
            next_page_token=str(page[-1].number) if len(found) > size else "",
        )

    async def StopExperiment(
        self, request: pb.StopExperimentRequest, context: _Context
    ) -> pb.StopExperimentResponse:
        experiment = await self._experiments.stop(request.experiment_id, request.winner)
        return pb.StopExperimentResponse(experiment=convert.to_experiment(experiment))

    async def AnalyzeExperiment(
        self, request: pb.AnalyzeExperimentRequest, context: _Context
    ) -> pb.AnalyzeExperimentResponse:
        return await self._analyzed(request)

    async def WatchExperiment(
        self, request: pb.WatchExperimentRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchExperimentResponse]:
        sent = None
        while True:
            experiment = await self._experiments.get(request.analyze.experiment_id)
            if experiment != sent:
                analysis = await self._analyzed(request.analyze)
                yield pb.WatchExperimentResponse(analysis=analysis)
                sent = experiment
            if experiment.state is State.STOPPED:
                return
            # Read again, because another model service may record outcomes.
            await asyncio.sleep(self._watch_interval_s)

    async def _analyzed(self, request: pb.AnalyzeExperimentRequest) -> pb.AnalyzeExperimentResponse:
        metrics = convert.to_metrics(request.metrics)
        alpha = request.alpha if request.HasField("alpha") else _DEFAULT_ALPHA
        recorded = await self._experiments.recorded(request.experiment_id)
        # In a thread: the courses of ten arms take some tenths of a second.
        results = await asyncio.to_thread(
            analyze,
            recorded.experiment,
            recorded.records,
            recorded.courses,
            alpha=alpha,
            metrics=metrics,
        )
        return convert.to_analysis(recorded.experiment, results, alpha)

    async def ReportOutcome(
        self, request: pb.ReportOutcomeRequest, context: _Context
    ) -> pb.ReportOutcomeResponse:
        # As generation reports it: the verified identity, without the name that a client claims.
        principal = forwarded_owner(context).partition("#")[0]
        scored = await self._recording.report_score(principal, request.request_id, request.score)
        return pb.ReportOutcomeResponse(experiment_id=scored.experiment_id, arm=scored.arm)

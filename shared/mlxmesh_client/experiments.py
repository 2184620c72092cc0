"""The client's methods for experiments."""

from collections.abc import AsyncGenerator, Iterable, Sequence

from mlxmesh.model.v1 import experiment_pb2 as pb
from mlxmesh.model.v1.experiment_pb2_grpc import ExperimentServiceStub
from mlxmesh.model.v1.split_pb2 import SplitArm, SplitSubject
from mlxmesh_client.calls import Calls


class ExperimentMethods:
    """One method per RPC of ExperimentService."""

    _calls: Calls
    _experiments: ExperimentServiceStub

    async def start_experiment(
        self,
        name: str,
        *,
        arms: Sequence[SplitArm],
        alias: str = "",
        subject: SplitSubject.ValueType = SplitSubject.SPLIT_SUBJECT_SESSION,
        description: str = "",
        experiment_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Experiment:
        """Compares versions of a model on the requests of an alias; the first arm is the control.

        Versions are loaded first. With an experiment_id, the call can be repeated.
        """
        request = pb.StartExperimentRequest(
            name=name,
            alias=alias,
            subject=subject,
            arms=arms,
            description=description,
            experiment_id=experiment_id,
        )
        call = self._experiments.StartExperiment
        safe = bool(experiment_id)
        return (await self._calls.unary(call, request, timeout_s, safe=safe)).experiment

    async def get_experiment(
        self, experiment_id: str, *, timeout_s: float | None = None
    ) -> pb.Experiment:
        """Returns one experiment."""
        request = pb.GetExperimentRequest(experiment_id=experiment_id)
        call = self._experiments.GetExperiment
        return (await self._calls.unary(call, request, timeout_s, safe=True)).experiment

    async def list_experiments(
        self, name: str = "", *, limit: int | None = None, timeout_s: float | None = None
    ) -> list[pb.Experiment]:
        """Returns the experiments of a model, or of all, the newest first; at most `limit`."""
        found: list[pb.Experiment] = []
        request = pb.ListExperimentsRequest(name=name)
        call = self._experiments.ListExperiments
        while True:
            page = await self._calls.unary(call, request, timeout_s, safe=True)
            found.extend(page.experiments)
            if not page.next_page_token or (limit is not None and len(found) >= limit):
                return found[:limit]
            request.page_token = page.next_page_token

    async def stop_experiment(
        self, experiment_id: str, *, winner: str = "", timeout_s: float | None = None
    ) -> pb.Experiment:
        """Ends an experiment; the alias then refers to the winner's version, or to its own."""
        request = pb.StopExperimentRequest(experiment_id=experiment_id, winner=winner)
        call = self._experiments.StopExperiment
        return (await self._calls.unary(call, request, timeout_s, safe=False)).experiment

    async def analyze_experiment(
        self,
        experiment_id: str,
        *,
        alpha: float | None = None,
        metrics: Iterable[pb.ExperimentMetric.ValueType] = (),
        timeout_s: float | None = None,
    ) -> pb.AnalyzeExperimentResponse:
        """Compares the arms; looking early, and often, does no harm."""
        request = pb.AnalyzeExperimentRequest(
            experiment_id=experiment_id, alpha=alpha, metrics=metrics
        )
        call = self._experiments.AnalyzeExperiment
        return await self._calls.unary(call, request, timeout_s, safe=True)

    async def watch_experiment(
        self, experiment_id: str, *, timeout_s: float | None = None
    ) -> AsyncGenerator[pb.AnalyzeExperimentResponse]:
        """Yields the comparison of the arms, then again after new outcomes, until it has ended."""
        analyze = pb.AnalyzeExperimentRequest(experiment_id=experiment_id)
        request = pb.WatchExperimentRequest(analyze=analyze)
        call = self._experiments.WatchExperiment
        async for response in self._calls.stream(call, request, timeout_s, safe=True):
            yield response.analysis

    async def report_outcome(
        self, request_id: str, score: float, *, timeout_s: float | None = None
    ) -> pb.ReportOutcomeResponse:
        """Reports your own score of a generation of an experiment that ended, once. The response
        names the experiment.

        Raises: OutcomeNotFound for a generation of no experiment, and for some seconds after the
        end of any; ScoreExists.
        """
        request = pb.ReportOutcomeRequest(request_id=request_id, score=score)
        call = self._experiments.ReportOutcome
        return await self._calls.unary(call, request, timeout_s, safe=True)

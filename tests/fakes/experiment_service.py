"""An ExperimentService that answers from memory, with an analysis that a test sets."""

from collections.abc import AsyncIterator
from typing import Any

from mlxmesh.model.v1 import experiment_pb2 as pb
from mlxmesh.model.v1 import split_pb2
from mlxmesh.model.v1.experiment_pb2_grpc import ExperimentServiceServicer
from mlxmesh_shared.errors import ExperimentNotFound, IllegalState, OutcomeNotFound

INFINITE = float("inf")


class FakeExperiments(ExperimentServiceServicer):
    """Keeps experiments, and the scores that were reported."""

    def __init__(self) -> None:
        self.experiments: dict[str, pb.Experiment] = {}
        self.analyses: list[pb.AnalyzeExperimentRequest] = []
        self.analysis = pb.AnalyzeExperimentResponse()
        self.scores: dict[str, float] = {}
        self.page_size = 2

    async def StartExperiment(self, request: Any, context: Any) -> Any:
        key = request.experiment_id or f"e-{len(self.experiments)}"
        self.experiments[key] = pb.Experiment(
            experiment_id=key,
            model=request.name,
            alias=request.alias or "default",
            subject=request.subject,
            arms=request.arms,
            state=pb.EXPERIMENT_STATE_PREPARING,
            description=request.description,
            reason=f"{request.name}@2 is being loaded",
        )
        return pb.StartExperimentResponse(experiment=self.experiments[key])

    async def GetExperiment(self, request: Any, context: Any) -> Any:
        return pb.GetExperimentResponse(experiment=self._find(request.experiment_id))

    async def ListExperiments(self, request: Any, context: Any) -> Any:
        found = [each for each in self.experiments.values() if request.name in ("", each.model)][
            ::-1
        ]
        start = int(request.page_token or 0)
        end = start + self.page_size
        token = str(end) if len(found) > end else ""
        return pb.ListExperimentsResponse(experiments=found[start:end], next_page_token=token)

    async def StopExperiment(self, request: Any, context: Any) -> Any:
        found = self._find(request.experiment_id)
        if found.state == pb.EXPERIMENT_STATE_STOPPED:
            raise IllegalState(f"experiment {request.experiment_id} has ended")
        found.state = pb.EXPERIMENT_STATE_STOPPED
        return pb.StopExperimentResponse(experiment=found)

    async def WatchExperiment(
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.WatchExperimentResponse]:
        self._find(request.experiment_id)
        yield pb.WatchExperimentResponse(analysis=self.analysis)

    async def AnalyzeExperiment(self, request: Any, context: Any) -> Any:
        self._find(request.experiment_id)
        self.analyses.append(request)
        return self.analysis

    async def ReportOutcome(self, request: Any, context: Any) -> Any:
        if request.request_id == "gone":
            raise OutcomeNotFound("no generation gone of yours can be scored", field="request_id")
        self.scores[request.request_id] = request.score
        return pb.ReportOutcomeResponse(experiment_id="e-0", arm="new")

    def _find(self, experiment_id: str) -> pb.Experiment:
        if experiment_id not in self.experiments:
            raise ExperimentNotFound(f"there is no experiment {experiment_id}")
        return self.experiments[experiment_id]


def analysis(*, finite: bool = True) -> pb.AnalyzeExperimentResponse:
    """Of two arms by two metrics; without finite intervals, as in its beginning."""
    end = 10.0 if finite else INFINITE

    def estimate(mean: float) -> pb.Estimate:
        return pb.Estimate(mean=mean, lower=mean - end, upper=mean + end)

    course = [
        pb.EstimateAt(
            values=at * 100,
            estimate=pb.Estimate(mean=-25, lower=-25 - 900 / at, upper=-25 + 900 / at),
        )
        for at in range(1, 40)
    ]
    arms = [
        pb.ArmAnalysis(arm="old", values=4010, mean=estimate(150)),
        pb.ArmAnalysis(
            arm="new",
            values=4000,
            mean=estimate(125),
            difference=estimate(-25),
            relative_difference=-1 / 6,
            effect_size=-0.31,
            significant=finite,
            course=course if finite else (),
        ),
    ]
    return pb.AnalyzeExperimentResponse(
        experiment=pb.Experiment(
            experiment_id="e-0",
            model="qwen",
            alias="default",
            arms=[
                split_pb2.SplitArm(arm="old", version=1, weight=50),
                split_pb2.SplitArm(arm="new", version=2, weight=50),
            ],
        ),
        metrics=[
            pb.MetricAnalysis(
                metric=pb.EXPERIMENT_METRIC_TTFT, arms=arms, verdict="Time to first token: so."
            ),
            pb.MetricAnalysis(metric=pb.EXPERIMENT_METRIC_COST, arms=arms, verdict="Cost: so."),
        ],
        sample_ratio_p_value=0.7,
        requests={"old": 4010, "new": 4000},
        verdict="new is better by time to first token.",
        alpha=0.05,
    )

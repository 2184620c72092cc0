"""Counts the outcomes and the scores of experiments."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.experiments import queries
from mlxmesh_model.experiments.metrics import Metric
from mlxmesh_model.experiments.queries import ScorableRequest
from mlxmesh_model.experiments.tally import subject_name
from mlxmesh_model.outcomes.outcome import Outcome
from mlxmesh_shared.errors import OutcomeNotFound, ScoreExists
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable


class Recording:
    """Adds each request, and at most one score of it, to its experiment."""

    def __init__(
        self, store: Store, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._clock = clock

    @property
    def transactions(self) -> Transactions:
        return self._store.transactions

    async def consume(self, session: Session, outcomes: Sequence[Outcome]) -> None:
        """Satisfies Consumer."""
        await queries.put_requests(session, map(_to_request, outcomes))
        by_experiment: defaultdict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            if outcome.experiment_id:
                by_experiment[outcome.experiment_id].append(outcome)
        for experiment_id, of_experiment in sorted(by_experiment.items()):
            await self._add(session, experiment_id, of_experiment)

    async def _add(self, session: Session, experiment_id: str, outcomes: Sequence[Outcome]) -> None:
        experiment = await queries.find(session, experiment_id)
        if experiment is None:
            return
        tally = await queries.open_tally(session, experiment, set(map(subject_name, outcomes)))
        tally.add_outcomes(outcomes)
        await queries.put_tally(session, tally, now=self._clock())

    @uncancellable
    async def report_score(self, principal: str, request_id: str, score: float) -> ScorableRequest:
        """Adds the score of a principal's own request; the same score again changes nothing.

        Raises: OutcomeNotFound, ScoreExists.
        """
        async with self.transactions.write() as session:
            request = await queries.find_request(session, principal, request_id)
            if request is None:
                raise OutcomeNotFound(
                    f"no generation {request_id} of yours ended of late; outcomes are recorded some"
                    " seconds after the end, so try again, and are kept for 7 days",
                    field="request_id",
                )
            if request.score is None:
                await queries.put_score(session, request, score)
                await self._add_score(session, request, score)
            elif request.score != score:
                raise ScoreExists(
                    f"{request_id} has the score {request.score:g}; a score cannot be changed",
                    field="score",
                )
        return request

    async def _add_score(self, session: Session, request: ScorableRequest, score: float) -> None:
        experiment = await queries.find(session, request.experiment_id)
        if experiment is None:
            return
        tally = await queries.open_tally(session, experiment, [request.subject])
        tally.add(request.arm, request.subject, Metric.SCORE, score)
        await queries.put_tally(session, tally, now=self._clock())


def _to_request(outcome: Outcome) -> ScorableRequest:
    return ScorableRequest(
        principal=outcome.principal,
        request_id=outcome.request_id,
        experiment_id=outcome.experiment_id,
        arm=outcome.arm if outcome.experiment_id else "",
        subject=subject_name(outcome),
        ended_at=outcome.end_time,
    )

"""Counts the outcomes and the scores of experiments."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.experiments import queries
from mlxmesh_model.experiments.metrics import Metric
from mlxmesh_model.experiments.queries import ScorableRequest
from mlxmesh_model.experiments.tally import subject_name
from mlxmesh_model.outcomes.outcome import Outcome
from mlxmesh_shared.errors import OutcomeNotFound, ScoreExists
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

KEPT = timedelta(days=7)
"""How long after its end a request can be scored."""
MAX_REQUESTS = 250_000
"""How many recent requests of all experiments are kept; the oldest are removed first."""
_CHECKED_PART = 0.1


class Recording:
    """Adds each request of an experiment, and at most one score of it."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        """max_requests: how many recent requests can be scored; about a tenth more are stored."""
        self._store = store
        self._max_requests = max_requests
        self._unchecked = max_requests
        self._clock = clock

    @property
    def transactions(self) -> Transactions:
        return self._store.transactions

    async def consume(self, session: Session, outcomes: Sequence[Outcome]) -> None:
        """Satisfies Consumer."""
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
        await self._put_requests(session, outcomes)
        tally = await queries.open_tally(session, experiment, set(map(subject_name, outcomes)))
        tally.add_outcomes(outcomes)
        await queries.put_tally(session, tally, now=self._clock())

    async def _put_requests(self, session: Session, outcomes: Sequence[Outcome]) -> None:
        """Stores requests for their scores; now and then removes the oldest beyond the limit."""
        await queries.put_requests(session, map(_to_request, outcomes))
        self._unchecked += len(outcomes)
        if self._unchecked >= self._max_requests * _CHECKED_PART:
            self._unchecked = 0
            before = self._clock() - KEPT
            await queries.prune_requests(session, before=before, most=self._max_requests)

    @uncancellable
    async def report_score(self, principal: str, request_id: str, score: float) -> ScorableRequest:
        """Adds the score of a principal's own request; the same score again changes nothing.

        Raises: OutcomeNotFound, ScoreExists.
        """
        async with self.transactions.write() as session:
            request = await queries.find_request(session, principal, request_id)
            if request is None:
                raise OutcomeNotFound(
                    f"no generation {request_id} of yours can be scored: it belongs to no"
                    " experiment, it ended more than 7 days ago or only some seconds ago (then try"
                    " again), or later ones took its place",
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
        arm=outcome.arm,
        subject=subject_name(outcome),
        ended_at=outcome.end_time,
    )

"""Counts outcomes for the rollouts that assigned them."""

from collections import defaultdict
from collections.abc import Callable, Sequence

from mlxmesh_model.outcomes.outcome import Outcome
from mlxmesh_model.rollouts import queries
from mlxmesh_model.rollouts.guards import Counts, count
from mlxmesh_model.rollouts.rollout import State
from mlxmesh_shared.sql.database import Session

_COUNTING = frozenset({State.PROGRESSING, State.PAUSED})


class RolloutCounter:
    """A consumer of outcomes. A generation counts in the step in which it ended."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called once something was counted, before the transaction ends."""
        self._wake = wake

    async def __call__(self, session: Session, outcomes: Sequence[Outcome]) -> None:
        by_rollout: defaultdict[str, defaultdict[int, Counts]] = defaultdict(
            lambda: defaultdict(Counts)
        )
        for outcome in outcomes:
            if outcome.rollout_id:
                of_versions = by_rollout[outcome.rollout_id]
                of_versions[outcome.version] += count(outcome)
        for rollout_id, of_versions in by_rollout.items():
            await self._add(session, rollout_id, of_versions)

    async def _add(self, session: Session, rollout_id: str, of_versions: dict[int, Counts]) -> None:
        rollout = await queries.find(session, rollout_id)
        if rollout is None or rollout.state not in _COUNTING:
            return
        for version, counts in of_versions.items():
            if version in (rollout.from_version, rollout.wish.to_version) and counts.requests:
                await queries.add_counts(session, rollout, version, counts)
        self._wake()

"""Records outcomes: each batch once, with everything that counts it, in one transaction."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.outcomes.outcome import Outcome
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.statements import upsert
from mlxmesh_shared.sql.transactions import OF_THE_DATABASE, Transactions, uncancellable

_log = logging.getLogger(__name__)

Consumer = Callable[[Session, Sequence[Outcome]], Awaitable[None]]
"""Counts outcomes within the transaction that records them. What it raises is logged, and undoes
what it wrote of the batch, but not what others did.
"""

_PUT_BATCH = upsert("outcome_batches", ("instance_id", "batch", "recorded_s"), ("instance_id",))


class Recorder:
    """The consumers of outcomes."""

    def __init__(
        self,
        store: Store,
        consumers: Sequence[Consumer],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """clock: Unix time in seconds."""
        self._store = store
        self._consumers = consumers
        self._clock = clock
        self._failing: list[Consumer] = []

    @property
    def transactions(self) -> Transactions:
        return self._store.transactions

    @uncancellable
    async def record(self, instance_id: str, batch: int, outcomes: Sequence[Outcome]) -> None:
        """Records a batch; one that was recorded before has no effect.

        An instance numbers its batches from 1 and sends one at a time.
        """
        async with self.transactions.write() as session:
            found = await session.fetch(
                "SELECT batch FROM outcome_batches WHERE instance_id = $1", instance_id
            )
            if found and found[0]["batch"] >= batch:
                return
            await session.fetch(_PUT_BATCH, instance_id, batch, int(self._clock()))
            for consume in self._consumers:
                await self._consume(session, consume, outcomes)

    async def _consume(
        self, session: Session, consume: Consumer, outcomes: Sequence[Outcome]
    ) -> None:
        """Lets one consumer count; the fault of one must not keep the others from counting."""
        try:
            async with self.transactions.part(session):
                await consume(session, outcomes)
        except OF_THE_DATABASE:
            raise  # the sender repeats the batch
        except Exception:  # noqa: BLE001 - logged, and the other consumers go on
            if consume not in self._failing:
                self._failing.append(consume)
                _log.exception("%s fails and counts nothing; not logged again", _name_of(consume))
        else:
            if consume in self._failing:
                self._failing.remove(consume)


def _name_of(consume: Consumer) -> str:
    return getattr(consume, "__qualname__", type(consume).__qualname__)


async def prune_batches(session: Session, *, before_s: int) -> None:
    """Forgets instances that recorded nothing since; a batch of theirs would count again."""
    await session.fetch("DELETE FROM outcome_batches WHERE recorded_s < $1", before_s)

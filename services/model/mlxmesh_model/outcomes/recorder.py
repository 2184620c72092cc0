"""Records outcomes: each batch once, with everything that counts it, in one transaction."""

import time
from collections.abc import Awaitable, Callable, Sequence

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.outcomes.outcome import Outcome
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.statements import upsert
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

Consumer = Callable[[Session, Sequence[Outcome]], Awaitable[None]]
"""Counts outcomes within the transaction that records them."""

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
                await consume(session, outcomes)


async def prune_batches(session: Session, *, before_s: int) -> None:
    """Forgets instances that recorded nothing since; a batch of theirs would count again."""
    await session.fetch("DELETE FROM outcome_batches WHERE recorded_s < $1", before_s)

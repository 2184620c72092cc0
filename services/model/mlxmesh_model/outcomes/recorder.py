"""Records outcomes: each batch once, with everything that counts it, in one transaction."""

from collections.abc import Awaitable, Callable, Sequence

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.outcomes.outcome import Outcome
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.statements import upsert
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

Consumer = Callable[[Session, Sequence[Outcome]], Awaitable[None]]
"""Counts outcomes within the transaction that records them."""

_PUT_BATCH = upsert("outcome_batches", ("instance_id", "batch"), ("instance_id",))


class Recorder:
    """The consumers of outcomes."""

    def __init__(self, store: Store, consumers: Sequence[Consumer]) -> None:
        self._store = store
        self._consumers = consumers

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
            await session.fetch(_PUT_BATCH, instance_id, batch)
            for consume in self._consumers:
                await consume(session, outcomes)

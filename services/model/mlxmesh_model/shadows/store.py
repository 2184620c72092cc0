"""Shadows in the catalogue: starting, ending, recording and reading them."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.shadows import queries
from mlxmesh_model.shadows.shadow import Batch, Pair, Plan, Run, check_start
from mlxmesh_model.shadows.tally import Tally
from mlxmesh_shared.errors import IllegalState, ModelNotFound, ShadowNotFound
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

MAX_PAIRS = 1000
"""The latest pairs that are kept of a shadow; all count in its tally."""
MAX_ENDED = 100
"""The latest shadows of a model that are kept after their end."""
KEPT = timedelta(days=7)
"""How long an instance that reports nothing may still repeat its last batch."""
_NO_LIMIT = 2**31 - 1

OnChange = Callable[[Run, Tally], None]
"""Called with a shadow that was started or has ended, and what it found."""


def _ignore(run: Run, tally: Tally) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Report:
    """What a shadow found, and the pairs that are kept, the newest first."""

    run: Run
    tally: Tally
    pairs: Sequence[Pair]


class Shadows:
    """Every change of a shadow and of its model is one transaction."""

    def __init__(
        self,
        store: Store,
        *,
        on_change: OnChange = _ignore,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_pairs: int = MAX_PAIRS,
    ) -> None:
        self._store = store
        self._on_change = on_change
        self._clock = clock
        self._max_pairs = max_pairs

    @property
    def transactions(self) -> Transactions:
        return self._store.transactions

    @uncancellable
    async def start(self, plan: Plan, shadow_id: str = "") -> Run:
        """Starts a shadow; one with the same id and plan is returned.

        Raises: InvalidArgument, ModelNotFound, IllegalState.
        """
        shadow_id = shadow_id or f"s-{secrets.token_hex(6)}"
        async with self._store.changing(plan.model) as (session, model):
            known = await queries.find(session, shadow_id)
            if known is not None:
                return _same(known, plan)
            if model is None:
                raise ModelNotFound(
                    f"there is no model {plan.model}; list the models to see which", field="name"
                )
            check_start(model, plan)
            run = Run(shadow_id, plan, self._clock(), await queries.next_number(session))
            await queries.add(session, run)
            await queries.delete_oldest(session, plan.model, keep=MAX_ENDED)
        self._on_change(run, Tally())
        return run

    @uncancellable
    async def stop(self, shadow_id: str) -> Run:
        """Ends a shadow. Raises: ShadowNotFound, IllegalState once it has ended."""
        known = await self.transactions.read(partial(_find, shadow_id=shadow_id))
        async with self._store.changing(known.plan.model) as (session, _):
            run = await _find(session, shadow_id)
            if run.ended_at is not None:
                raise IllegalState(f"shadow {shadow_id} has ended")
            now = self._clock()
            await queries.end(session, shadow_id, now)
            run = replace(run, ended_at=now)
            tally = await queries.read_tally(session, shadow_id)
        self._on_change(run, tally)
        return run

    @uncancellable
    async def record(self, shadow_id: str, batch: Batch) -> None:
        """Records a batch, also of a shadow that has ended; a repeated one has no effect.

        Raises: ShadowNotFound.
        """
        async with self.transactions.write() as session:
            await _find(session, shadow_id)
            if await queries.last_batch(session, batch.instance_id) >= batch.number:
                return
            now = self._clock()
            await queries.put_batch(
                session, batch.instance_id, batch.number, now=now, forget_before=now - KEPT
            )
            before = await queries.read_tally(session, shadow_id)
            after = before.add(batch)
            await queries.put_tally(session, shadow_id, after)
            # Those before the last ones would be removed at once.
            kept = batch.pairs[-self._max_pairs :]
            await queries.add_pairs(session, shadow_id, after.compared - len(kept) + 1, kept)
            oldest = after.compared - self._max_pairs
            await queries.delete_pairs(session, shadow_id, through=oldest)

    @uncancellable
    async def page(self, *, model: str = "", before: int | None = None, limit: int) -> list[Run]:
        """The newest shadows with a number below `before`, of one model or of all."""
        below = _NO_LIMIT if before is None else before
        return await self.transactions.read(
            partial(queries.read_page, model=model, before=below, limit=limit)
        )

    @uncancellable
    async def report(self, shadow_id: str) -> Report:
        """What a shadow found. Raises: ShadowNotFound."""

        async def read(session: Session) -> Report:
            run = await _find(session, shadow_id)
            tally = await queries.read_tally(session, shadow_id)
            return Report(run, tally, await queries.read_pairs(session, shadow_id))

        return await self.transactions.read(read)


async def _find(session: Session, shadow_id: str) -> Run:
    run = await queries.find(session, shadow_id)
    if run is None:
        raise ShadowNotFound(
            f"there is no shadow {shadow_id}; `mlxmesh shadow list` shows those there are",
            field="shadow_id",
        )
    return run


def _same(known: Run, plan: Plan) -> Run:
    if known.plan != plan:
        raise IllegalState(
            f"there is a shadow {known.shadow_id} with another plan; choose another id"
        )
    return known

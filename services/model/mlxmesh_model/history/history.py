"""The history of models: counts outcomes by the hour, and reads the sums."""

from collections.abc import Sequence

from mlxmesh_model.catalogue import queries
from mlxmesh_model.catalogue.models import Model
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.history import rows
from mlxmesh_model.history.periods import (
    Amounts,
    PeriodKey,
    Resolution,
    Sums,
    TimeRange,
    by_hour,
    summed,
    whole_periods,
)
from mlxmesh_model.outcomes.outcome import Outcome
from mlxmesh_shared.errors import InvalidArgument, ModelNotFound
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

MAX_PERIODS = 20_000
"""Of one answer; the stored periods that it is made of are bounded as well."""


async def count(session: Session, outcomes: Sequence[Outcome]) -> None:
    """Satisfies Consumer: adds outcomes to their hours."""
    await rows.add(session, by_hour(outcomes))


class History:
    """Reads what `count` has stored. A model that was deleted keeps its history."""

    def __init__(self, store: Store) -> None:
        """Uses the store, which its caller closes."""
        self._store = store

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._store.transactions

    @uncancellable
    async def of(
        self, reference: ModelReference, resolution: Resolution, during: TimeRange
    ) -> list[tuple[PeriodKey, Amounts]]:
        """The periods of a version, of an alias's versions, or of a whole model.

        Raises: ModelNotFound for one that neither exists nor has a history. InvalidArgument for a
        range of too many periods.
        """
        during = whole_periods(during, resolution)

        async def stored(session: Session) -> Sums:
            model = await queries.find_model(session, reference.name)
            versions = _versions(model, reference)
            if not _exists(model, versions) and not await rows.is_known(
                session, reference.name, versions
            ):
                raise ModelNotFound(f"there is no model {reference} and no history of it")
            return await rows.read(session, reference.name, versions, during, limit=MAX_PERIODS + 1)

        found = await self.transactions.read(stored)
        if len(found) > MAX_PERIODS:
            raise InvalidArgument(
                f"the range has more than {MAX_PERIODS} periods; choose a later start or name a"
                " version",
                field="start_time",
            )
        return summed(found, resolution, during)


def _versions(model: Model | None, reference: ModelReference) -> list[int]:
    """The versions that a reference means; none for all."""
    if reference.version is not None:
        return [reference.version]
    if reference.alias is None:
        return []
    if model is None:
        raise ModelNotFound(f"there is no model {reference.name}", field="model")
    if reference.alias in model.splits:
        return sorted({arm.version for arm in model.splits[reference.alias].arms})
    return [model.resolve(reference).number]


def _exists(model: Model | None, versions: Sequence[int]) -> bool:
    return model is not None and all(
        any(each.number == number for each in model.versions) for number in versions
    )

"""Advances experiments: begins those whose versions are ready, and removes what is old."""

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.experiments.store import Experiments
from mlxmesh_shared.errors import MeshError

_log = logging.getLogger(__name__)

INTERVAL_S = 60.0
PRUNE_INTERVAL = timedelta(minutes=10)


class ExperimentController:
    """One step at a time; each step may be repeated by another process."""

    def __init__(self, store: Store, experiments: Experiments) -> None:
        self._store = store
        self._experiments = experiments
        self._pruned_at: datetime | None = None

    async def advance(self, now: datetime) -> None:
        """Begins each experiment that can run; every ten minutes, removes what is old."""
        for experiment in await self._experiments.preparing():
            await self._experiments.try_begin(experiment.experiment_id)
        if self._pruned_at is None or now - self._pruned_at >= PRUNE_INTERVAL:
            self._pruned_at = now
            await self._experiments.prune(now)

    async def run(self) -> None:
        """Advances after each change of the catalogue, and once per minute; until cancelled."""
        with self._store.subscribe() as changed:
            while True:
                changed.clear()
                try:
                    await self.advance(datetime.now(UTC))
                except MeshError as error:
                    _log.warning("experiments could not be advanced: %s", error.message)
                except Exception:  # noqa: BLE001 - one failed pass must not end all later ones
                    _log.exception("experiments could not be advanced")
                with suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL_S):
                        await changed.wait()

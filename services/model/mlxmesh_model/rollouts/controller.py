"""The loop that moves rollouts; it runs in the leader, and each move is compare-and-set."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from mlxmesh_model.rollouts.machine import decide
from mlxmesh_model.rollouts.release import InUse, is_due
from mlxmesh_model.rollouts.rollout import ENDED, Rollout
from mlxmesh_model.rollouts.store import RolloutStore
from mlxmesh_model.rollouts.telemetry import RolloutTelemetry
from mlxmesh_shared.errors import MeshError

_log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time of now."""
    return datetime.now(UTC)


def _unused(label: str) -> bool:
    return False


class RolloutController:
    """Decides for every rollout when something changes, and at least once per interval while one
    is active. Outcomes may reach another model service, of which only the interval tells.
    """

    def __init__(
        self,
        rollouts: RolloutStore,
        *,
        clock: Clock = utc_now,
        interval_s: float = 1.0,
        in_use: InUse = _unused,
        telemetry: RolloutTelemetry | None = None,
    ) -> None:
        self._rollouts = rollouts
        self._clock = clock
        self._interval_s = interval_s
        self._in_use = in_use
        self._telemetry = telemetry or RolloutTelemetry()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Starts the next pass at once."""
        self._woken.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        with self._rollouts.catalogue.subscribe() as changed:
            self._woken = changed
            while True:
                changed.clear()
                interval_s = self._interval_s if await self._advanced() else None
                # Not wait_for: in Python 3.11 it may lose a cancellation at the time of the event.
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval_s):
                        await changed.wait()

    async def _advanced(self) -> bool:
        """Whether a rollout is active, or may be."""
        try:
            return await self.advance()
        except MeshError as error:
            _log.warning("rollouts are not moved (%s); retrying soon", error.message)
        except Exception:  # noqa: BLE001 - one failed pass must not end all later ones
            _log.exception("rollouts are not moved; retrying in %g s", self._interval_s)
        return True

    async def advance(self) -> bool:
        """One pass; returns whether a rollout is active."""
        active = await self._rollouts.active()
        self._telemetry.seen(active)
        for rollout in active:
            try:
                await self._advance(rollout)
            except MeshError as error:
                _log.warning("%s is not moved: %s", rollout.label, error.message)
        return bool(active)

    async def _advance(self, rollout: Rollout) -> None:
        now = self._clock()
        if rollout.state in ENDED:
            if is_due(rollout, now, in_use=self._in_use):
                await self._rollouts.release(rollout)
            return
        decision = decide(rollout, await self._rollouts.observe(rollout), now)
        if decision is not None:
            await self._rollouts.move(rollout, decision, now=now)

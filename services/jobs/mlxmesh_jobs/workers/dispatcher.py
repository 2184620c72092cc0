"""Gives waiting jobs to whoever has free slots."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mlxmesh_jobs.domain.jobs import Capability, Claim, Stopped, Update
from mlxmesh_jobs.domain.ports import JobStore
from mlxmesh_shared.errors import MeshError

MAX_CLAIM = 32
"""Jobs of one claim, so that workers with free slots share what waits."""
MIN_INTERVAL_S = 0.02
"""Between passes: changes come in bursts."""
MAX_SLEEP_S = 15.0
"""A principal that was blocked may start jobs again without any change."""
_RETRY_S = 0.5
_log = logging.getLogger("mlxmesh.jobs")


class Taker(Protocol):
    """A session that takes jobs."""

    @property
    def key(self) -> int:
        """Of the session."""
        ...

    @property
    def free(self) -> int:
        """How many more jobs it takes now."""
        ...

    @property
    def held(self) -> int:
        """How many it has."""
        ...

    @property
    def capability(self) -> Capability:
        """Which jobs it takes now."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it takes no more."""
        ...

    def give(self, claims: Sequence[Claim]) -> None:
        """Assigns attempts."""
        ...


class Dispatcher:
    """Claims when something has changed that may let a job start, and otherwise sleeps."""

    def __init__(
        self,
        store: JobStore,
        takers: Callable[[], Iterable[Taker]],
        *,
        min_interval_s: float = MIN_INTERVAL_S,
    ) -> None:
        self._store = store
        self._takers = takers
        self._min_interval_s = min_interval_s
        self._changed: asyncio.Event | None = None
        self._stopped = False

    def wake(self) -> None:
        """A session may take more jobs."""
        if self._changed is not None:
            self._changed.set()

    def stop(self) -> None:
        """Starts no more jobs."""
        self._stopped = True

    async def run(self) -> None:
        """Dispatches until it is cancelled."""
        with self._store.subscribe() as changed:
            self._changed = changed
            while True:
                changed.clear()
                delay_s = await self._pass()
                await asyncio.sleep(self._min_interval_s)
                await _wait(changed, MAX_SLEEP_S if delay_s is None else min(delay_s, MAX_SLEEP_S))

    async def _pass(self) -> float | None:
        """Gives jobs until none waits or nobody is free; returns when to look again without a
        change, None for never.
        """
        delays_s: list[float] = []
        idle: set[Capability] = set()
        """Capabilities for which no job waits."""
        full: set[int] = set()
        """Sessions that have as many jobs of a connector as they take."""
        gave = True
        while gave and not self._stopped:
            # At the same time, so that the store can make one transaction of them.
            takers = self._open(idle, full)
            found = await asyncio.gather(*map(self._claim, takers))
            gave = any(each.full for each in found)
            full.update(
                taker.key for taker, each in zip(takers, found, strict=True) if each.limited
            )
            idle.update(each.capability for each in found if not each.full and not each.limited)
            delays_s += [each.delay_s for each in found if each.delay_s is not None]
        return min(delays_s, default=None)

    def _open(self, idle: Collection[Capability], full: Collection[int]) -> Sequence[Taker]:
        """Those that may take jobs, the least busy first."""
        free = [
            each
            for each in self._takers()
            if each.free and each.key not in full and _unlimited(each.capability) not in idle
        ]
        return sorted(free, key=lambda each: each.held)

    async def _claim(self, taker: Taker) -> "_Claimed":
        limit, wanted = min(taker.free, MAX_CLAIM), taker.capability
        capability = _unlimited(wanted)
        try:
            claims, delay_s = await self._store.claim(taker.key, wanted, limit)
            if claims and (taker.closed or self._stopped):
                updates = [Update(id=each.id, news=Stopped()) for each in claims]
                await self._store.apply(taker.key, updates)
                return _Claimed(capability, full=False)
        except MeshError as error:
            _log.warning("jobs could not be claimed; trying again: %s", error.message)
            return _Claimed(capability, full=False, delay_s=_RETRY_S)
        except Exception:  # noqa: BLE001 - one failed pass must not end all later ones
            _log.exception("jobs could not be claimed; trying again")
            return _Claimed(capability, full=False, delay_s=_RETRY_S)
        if claims:
            taker.give(claims)
        return _Claimed(
            capability,
            full=len(claims) == limit,
            limited=len(claims) < limit and _reached(wanted, claims),
            delay_s=delay_s,
        )


@dataclass(frozen=True)
class _Claimed:
    """What came of a claim."""

    capability: Capability
    full: bool
    """Whether it got as many jobs as it asked for, so that more may wait."""
    limited: bool = False
    """Whether it did not, but got as many of a connector as it takes, so that more may wait."""
    delay_s: float | None = None


def _unlimited(capability: Capability) -> Capability:
    """Which jobs a session takes, however many."""
    return replace(capability, limits=frozenset())


def _reached(capability: Capability, claims: Sequence[Claim]) -> bool:
    """Whether the claims are as many as allowed of a connector."""
    taken = Counter(claim.connector for claim in claims)
    return any(taken[connector] >= most for connector, most in capability.limits)


async def _wait(changed: asyncio.Event, timeout_s: float) -> None:
    """Until something changes, or the time has passed."""
    try:
        async with asyncio.timeout(timeout_s):
            await changed.wait()
    except TimeoutError:
        pass

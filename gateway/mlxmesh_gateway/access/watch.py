"""Keeps the policies up to date with the access service, and on disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from mlxmesh_gateway.access.link import PolicySource
from mlxmesh_gateway.access.pause import pause
from mlxmesh_gateway.access.policies import Policies
from mlxmesh_shared.errors import AccessUnavailable, MeshError

_log = logging.getLogger(__name__)

MIN_RETRY_S = 0.1
MAX_RETRY_S = 2.0
ABSENT_RETRY_S = 60.0
"""While no access service was ever registered; its registration ends the pause."""
CATCH_UP_S = 1.0
"""How long the watch may take to reach a revision that the service has."""
ROUND_INTERVAL_S = 0.05
"""Between two questions for the current revision, however many callers wait for one."""


class PolicyWatch:
    """Follows the policies of any instance of the access service."""

    def __init__(
        self,
        source: PolicySource,
        policies: Policies,
        *,
        keep: Callable[[], None] = lambda: None,
        catch_up_s: float = CATCH_UP_S,
    ) -> None:
        """keep: is called after each change."""
        self._source = source
        self._policies = policies
        self._keep = keep
        self._catch_up_s = catch_up_s
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._following = False
        self._settled = False
        self._waiting: asyncio.Future[bool] | None = None
        """Of those for whom the next question is asked: whether the policies have caught up."""
        self._rounds: asyncio.Task[None] | None = None

    @property
    def is_following(self) -> bool:
        """Whether an access service is reachable, and the policies are its own."""
        return self._following

    def wake(self) -> None:
        """An access service may be there now."""
        self._wake.set()

    async def run(self) -> None:
        """Follows until cancelled."""
        retry_s = MIN_RETRY_S
        while True:
            try:
                await self._follow()
            except MeshError as error:
                if self._following:
                    _log.warning("the access service is away: %s", error.message)
            except Exception:  # noqa: BLE001 - following must not end
                _log.exception("the watch of the policies failed; trying again")
            retry_s = MIN_RETRY_S if self._following else min(2 * retry_s, MAX_RETRY_S)
            await self._set_following(False)
            await pause(retry_s if self._source.is_registered() else ABSENT_RETRY_S, self._wake)

    @property
    def is_undecided(self) -> bool:
        """Whether there may be policies that this gateway has never seen."""
        return not self._policies.known and (not self._settled or self._source.is_registered())

    async def settle(self) -> None:
        """The registry was read: from now on, a service that is not registered is not there."""
        async with self._changed:
            self._settled = True
            self._changed.notify_all()

    async def decided(self, timeout_s: float) -> None:
        """Waits while it is undecided, at most so long."""
        if not self.is_undecided:
            return
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: not self.is_undecided)
        except TimeoutError:
            _log.warning("the access service has not sent its policies yet")

    async def catch_up(self) -> None:
        """Waits until the policies are as new as the service's were when this was called.

        Callers that wait at one time share their questions. Raises: AccessUnavailable.
        """
        if not self._following:
            raise away()
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
            if self._rounds is None or self._rounds.done():
                self._rounds = asyncio.create_task(self._run_rounds(), name="policy-revision")
        if not await asyncio.shield(self._waiting):
            raise away()

    async def close(self) -> None:
        """Ends the questions that run."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.gather(self._rounds, return_exceptions=True)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(False)

    async def _run_rounds(self) -> None:
        """Asks for all who wait, until nobody does."""
        while (waiting := self._waiting) is not None:
            self._waiting = None  # who comes from now on needs a newer answer
            caught_up = False
            try:
                caught_up = await self._has_caught_up()
            finally:
                waiting.set_result(caught_up)
            await asyncio.sleep(ROUND_INTERVAL_S)

    async def _has_caught_up(self) -> bool:
        try:
            revision = await self._source.revision()
            async with asyncio.timeout(self._catch_up_s), self._changed:
                await self._changed.wait_for(
                    lambda: self._policies.revision >= revision or not self._following
                )
        except (MeshError, TimeoutError):
            return False
        return self._following

    async def _follow(self) -> None:
        async with aclosing(self._source.watch()) as changes:
            async for change in changes:
                self._policies.apply(change)
                self._keep()
                await self._set_following(True)

    async def _set_following(self, following: bool) -> None:
        async with self._changed:
            self._following = following
            self._changed.notify_all()


def away() -> AccessUnavailable:
    """For credentials that cannot be verified now."""
    return AccessUnavailable(
        "the access service does not answer, and these credentials are not known here yet; try"
        " again later",
        retry_delay_s=1.0,
    )

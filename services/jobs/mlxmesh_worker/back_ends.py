"""The back ends of connectors: which there are, whether they are healthy, and which are free."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mlxmesh_shared.errors import InvalidArgument, MeshError, ServiceUnavailable
from mlxmesh_shared.process.service_host import running_in_background
from mlxmesh_shared.registry import Instance, Registry, follow_service
from mlxmesh_worker import convert
from mlxmesh_worker.connectors.port import Connector, ConnectorType, Target

_log = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 5.0
WAIT_FOR_HEALTHY_S = 10.0


@dataclass(eq=False)
class BackEnd:
    """One back end of a connector, as this worker sees it."""

    connector: str
    target: Target
    client: Connector
    healthy: bool = False
    reason: str = "its health was not checked yet"
    running: int = 0
    fixed: bool = False
    """Whether the settings name it, so that it stays whatever the registry lists."""
    turn: int = 0
    """Grows with each use: among equals, the one that was not used for longest comes first."""


@dataclass
class _Pool:
    type: ConnectorType
    found: dict[tuple[str, str], BackEnd] = field(default_factory=dict[tuple[str, str], BackEnd])
    """By name and address."""
    waiting: int = 0
    """Jobs that wait for a free one."""


class BackEnds:
    """All back ends of all connectors."""

    def __init__(
        self,
        types: Mapping[str, ConnectorType],
        *,
        settings: Sequence[str] = (),
        registry: Registry,
        slots: int,
        probe_interval_s: float,
        wait_s: float = WAIT_FOR_HEALTHY_S,
    ) -> None:
        """settings: CONNECTOR=ADDRESS each; slots: jobs that one back end runs at once.

        Raises: InvalidArgument for a setting that is wrong, or names another connector.
        """
        self._pools = {name: _Pool(type_) for name, type_ in types.items()}
        self._registry = registry
        self._slots = slots
        self._probe_interval_s = probe_interval_s
        self._wait_s = wait_s
        self._changed = asyncio.Event()
        self._turn = 0
        self.version = 1
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change."""
        for number, setting in enumerate(settings, 1):
            connector, address = _parse(setting, self._pools)
            target = Target(name=f"{connector}-{number}", address=address)
            self._add(connector, target).fixed = True

    async def run(self) -> None:
        """Follows the registry and checks health until cancelled."""
        follow = (
            follow_service(self._registry, name, partial(self._update, name))
            for name in self._pools
        )
        async with running_in_background(*follow):
            while True:
                await asyncio.gather(*map(self._probe, self._all()))
                await asyncio.sleep(self._probe_interval_s)

    async def close(self) -> None:
        """Closes the connections of all back ends."""
        for back_end in self._all():
            await back_end.client.close()

    def listed(self) -> Sequence[Any]:
        """As BackEnd messages of the contract."""
        return [
            convert.back_end(
                self._pools[each.connector].type,
                each.target,
                healthy=each.healthy,
                reason=each.reason,
            )
            for each in self._all()
        ]

    def busy(self) -> Sequence[str]:
        """Connectors without a healthy back end with a free slot."""
        return [name for name, slots in self.free_slots().items() if not slots]

    def free_slots(self) -> Mapping[str, int]:
        """The free slots of healthy back ends, by connector, without those that jobs wait for."""
        return {name: self._free(pool) for name, pool in self._pools.items()}

    @contextlib.asynccontextmanager
    async def acquire(
        self, connector: str, *, prefer: str = "", on_wait: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[BackEnd]:
        """A healthy back end with a free slot: the least used one, or the preferred one.

        on_wait: called now and then while healthy ones are there and none is free.
        Raises: InvalidArgument for an unknown connector; ServiceUnavailable while none is healthy.
        """
        pool = self._pools.get(connector)
        if pool is None:
            known = ", ".join(sorted(self._pools)) or "none"
            raise InvalidArgument(
                f"this worker has no connector {connector}; it has {known}", field="connector"
            )
        pool.waiting += 1
        try:
            back_end = await self._wait_for_free(connector, pool, prefer, on_wait)
        finally:
            pool.waiting -= 1
        back_end.running += 1
        self._turn += 1
        back_end.turn = self._turn
        try:
            yield back_end
        finally:
            back_end.running -= 1
            self._wake()
            await self._close_if_gone(pool, back_end)

    async def _wait_for_free(
        self, connector: str, pool: _Pool, prefer: str, on_wait: Callable[[], None]
    ) -> BackEnd:
        give_up_s = time.monotonic() + self._wait_s
        while True:
            healthy = [each for each in pool.found.values() if each.healthy]
            # What an earlier attempt began is there and nowhere else.
            healthy = [each for each in healthy if each.target.name == prefer] or healthy
            free = [each for each in healthy if each.running < self._slots]
            if free:
                return min(free, key=lambda each: (each.running, each.turn))
            if healthy:
                on_wait()
                give_up_s = time.monotonic() + self._wait_s
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                reasons = "; ".join(each.reason for each in pool.found.values())
                raise ServiceUnavailable(
                    f"no back end of {connector} is healthy{': ' if reasons else ''}{reasons}"
                )
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()

    def _free(self, pool: _Pool) -> int:
        healthy = (each for each in pool.found.values() if each.healthy)
        return max(0, sum(self._slots - each.running for each in healthy) - pool.waiting)

    def _all(self) -> list[BackEnd]:
        return [each for pool in self._pools.values() for each in pool.found.values()]

    def _add(self, connector: str, target: Target) -> BackEnd:
        pool = self._pools[connector]
        back_end = BackEnd(connector, target, pool.type(target))
        pool.found[target.name, target.address] = back_end
        return back_end

    def _try_to_add(self, connector: str, target: Target) -> BackEnd | None:
        """As _add(); None for an address that the connector does not take."""
        try:
            return self._add(connector, target)
        except MeshError as error:
            _log.warning("%s is left out: %s", target.name, error.message)
        except Exception:  # noqa: BLE001 - a connector is not part of this process
            _log.exception("%s is left out: its connector failed", target.name)
        return None

    async def _update(self, connector: str, instances: Collection[Instance]) -> None:
        pool = self._pools[connector]
        listed = {(each.instance_id, each.address) for each in instances}
        known = {place for place, each in pool.found.items() if not each.fixed}
        added = [
            made
            for name, address in sorted(listed - known)
            if (made := self._try_to_add(connector, Target(name=name, address=address)))
        ]
        for place in known - listed:
            await self._close_if_gone(pool, pool.found.pop(place))
        self.version += 1
        await asyncio.gather(*map(self._probe, added))
        self._wake()

    async def _close_if_gone(self, pool: _Pool, back_end: BackEnd) -> None:
        if not back_end.running and back_end not in pool.found.values():
            await back_end.client.close()

    async def _probe(self, back_end: BackEnd) -> None:
        before = back_end.healthy, back_end.reason
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                await back_end.client.probe()
            back_end.healthy, back_end.reason = True, ""
        except MeshError as error:
            back_end.healthy, back_end.reason = False, error.message
        except TimeoutError:
            back_end.healthy, back_end.reason = False, "it does not answer"
        except Exception:  # noqa: BLE001 - a connector is not part of this process
            _log.exception("the health check of %s failed", back_end.target.name)
            back_end.healthy, back_end.reason = False, "its health check failed"
        if (back_end.healthy, back_end.reason) != before:
            state = "is healthy" if back_end.healthy else f"is not healthy: {back_end.reason}"
            _log.info("%s at %s %s", back_end.connector, back_end.target.address, state)
            self.version += 1
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self.on_change()


def _parse(setting: str, known: Collection[str]) -> tuple[str, str]:
    connector, separator, address = setting.partition("=")
    if not separator or not address:
        raise InvalidArgument(
            f"back_ends has {setting}; it must be CONNECTOR=ADDRESS", field="back_ends"
        )
    if connector not in known:
        names = ", ".join(sorted(known)) or "none"
        raise InvalidArgument(
            f"back_ends names the connector {connector}; there are {names}", field="back_ends"
        )
    return connector, address

"""The one loop that makes what runs match what is desired."""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mlxmesh_model.catalogue.models import REFUSAL_PAUSE_S, FailureRecord, Phase, Replica, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.fleet import plan
from mlxmesh_model.fleet.passed_over import PassedOver, refusal
from mlxmesh_model.fleet.placement import NoRoom, Runtime, place
from mlxmesh_model.fleet.runtimes import Fleet
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    InsufficientMemory,
    MeshError,
    NoRuntime,
    ServiceUnavailable,
)

_log = logging.getLogger(__name__)

_MIB = 1024 * 1024


class _Outdated(Exception):
    """Somebody loaded or unloaded the version since this pass read it."""


@dataclass(slots=True)
class _Pass:
    """What one pass knows: the runtimes, and the bytes it has placed on each."""

    runtimes: Mapping[str, Runtime]
    promised_bytes: Counter[str] = field(default_factory=Counter[str])

    @property
    def reachable(self) -> frozenset[str]:
        return frozenset(r.runtime_id for r in self.runtimes.values() if r.open)

    @property
    def silent(self) -> list[str]:
        return sorted(r.runtime_id for r in self.runtimes.values() if r.engines is None)

    @property
    def leaving(self) -> frozenset[str]:
        return frozenset(r.runtime_id for r in self.runtimes.values() if r.draining)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a version found no place; it stands until `until`, or until something that matters has
    changed.
    """

    failure: FailureRecord
    intent: int
    reachable: frozenset[str]
    until: float


class Reconciler:
    """Compares desired replicas with the fleet's engines, again and again, and closes the gap.

    A pass is serial and quick: engines are stopped in tasks of their own, since that drains them.
    """

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        interval_s: float = 1.0,
        refusal_pause_s: float = REFUSAL_PAUSE_S,
        passed_over: PassedOver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._interval_s = interval_s
        self._refusal_pause_s = refusal_pause_s
        self._passed_over = passed_over or PassedOver()
        self._clock = clock
        self._bell = asyncio.Event()
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._refusals: dict[str, _Refusal] = {}

    def wake(self) -> None:
        """Makes the next pass start at once."""
        self._bell.set()

    async def run(self) -> None:
        """Passes whenever woken and at least once an interval, until cancelled."""
        try:
            while True:
                self._bell.clear()
                try:
                    await self.reconcile()
                except MeshError as error:
                    _log.warning("a pass failed (%s); the next starts soon", error.message)
                except Exception:  # noqa: BLE001 - one failed pass must not end all later ones
                    _log.exception("a pass failed; the next starts in %g s", self._interval_s)
                # Not wait_for: in Python 3.11 it may lose a cancellation that meets the bell.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._bell.wait()
        finally:
            for task in self._stopping.values():
                task.cancel()
            await asyncio.gather(*self._stopping.values(), return_exceptions=True)

    async def reconcile(self) -> None:
        """One pass over all versions."""
        runtimes = {runtime.runtime_id: runtime for runtime in await self._fleet.observe()}
        this_pass = _Pass(runtimes)
        versions = [v for model in await self._store.models() for v in model.versions]
        wanted = {version.label for version in versions if version.desired_replicas}
        self._passed_over.keep_only(wanted, runtimes)
        for version in versions:
            if version.desired_replicas or version.replicas:
                try:
                    await self._settle(version, this_pass)
                except _Outdated:
                    self.wake()
        for runtime_id, engine_id in plan.strangers(versions, runtimes.values()):
            self._stop(runtime_id, engine_id)

    async def _settle(self, version: Version, this_pass: _Pass) -> None:
        """Brings one version as close to what is desired as one pass can."""
        desired, leaving = version.desired_replicas, this_pass.leaving
        replicas = plan.observe(version, this_pass.runtimes)
        replicas = plan.trim(replicas, desired=desired, leaving=leaving)
        refused: FailureRecord | None = None
        for pending in [replica for replica in replicas if replica.phase is Phase.PENDING]:
            started = await self._start(version, pending, this_pass)
            replicas = _without(replicas, pending)
            if isinstance(started, Replica):
                replicas += (started,)
        for _ in range(plan.missing(replicas, desired=desired, leaving=leaving)):
            placed = await self._place(version, replicas, this_pass)
            if isinstance(placed, FailureRecord):
                refused = placed
                break
            replicas += (placed,)
        await self._record(version, replicas, refused or _first_failure(replicas))
        for replica in replicas:
            if replica.phase is Phase.STOPPING:
                self._stop(replica.runtime_id, replica.engine_id)

    async def _place(
        self, version: Version, replicas: tuple[Replica, ...], this_pass: _Pass
    ) -> Replica | FailureRecord:
        """One more replica on the best runtime that takes it, or why none does."""
        standing = self._refusals.get(version.label)
        if standing and self._stands(standing, version, this_pass):
            return standing.failure
        refusals: dict[str, FailureRecord] = {}
        while True:
            runtime = place(
                this_pass.runtimes.values(),
                weights_bytes=_weights_bytes(version),
                replicas_on=Counter(replica.runtime_id for replica in replicas),
                promised_bytes=this_pass.promised_bytes,
                refused_by=frozenset(refusals),
            )
            if isinstance(runtime, NoRoom):
                refused = next(iter(refusals.values()), None)
                failure = refused or _no_room(version, runtime, this_pass.silent)
                return self._refuse(version, this_pass, failure)
            replica = Replica(_new_engine_id(version), runtime.runtime_id)
            # In the catalogue before its runtime is told: an engine that it does not know is
            # stopped. How the version stands shows only when the runtime has answered.
            await self._record(version, (*replicas, replica), version.failure)
            started = await self._start(version, replica, this_pass)
            if isinstance(started, Replica):
                self._refusals.pop(version.label, None)
                return started
            refusals[runtime.runtime_id] = started

    async def _start(
        self, version: Version, replica: Replica, this_pass: _Pass
    ) -> Replica | FailureRecord:
        """The replica as its runtime took it, still pending when that could not be asked, or why
        the runtime refuses it.
        """
        try:
            engine = await self._fleet.start(replica.runtime_id, replica.engine_id, version)
        except (ServiceUnavailable, DeadlineExceeded) as error:
            _log.warning("%s could not be started yet: %s", replica.engine_id, error.message)
            return replica
        except MeshError as error:
            failure = refusal(replica.runtime_id, version, error)
            self._passed_over.note(version, replica.runtime_id, failure)
            return failure
        self._passed_over.accepted(version, replica.runtime_id)
        this_pass.promised_bytes[replica.runtime_id] += _weights_bytes(version)
        return replace(replica, phase=engine.phase, failure=engine.failure)

    async def _record(
        self, version: Version, replicas: tuple[Replica, ...], failure: FailureRecord | None
    ) -> None:
        settled = version.settle(replicas, failure)
        # Most passes find all as it should be, and an idle mesh should cost next to nothing.
        if settled != version and not await self._store.record(settled):
            raise _Outdated

    def _refuse(self, version: Version, this_pass: _Pass, failure: FailureRecord) -> FailureRecord:
        """Keeps a refusal, so that a full fleet is not asked every second."""
        until = self._clock() + self._refusal_pause_s
        self._refusals[version.label] = _Refusal(
            failure, version.intent, this_pass.reachable, until
        )
        return failure

    def _stands(self, refusal: _Refusal, version: Version, this_pass: _Pass) -> bool:
        same = (refusal.intent, refusal.reachable) == (version.intent, this_pass.reachable)
        return same and self._clock() < refusal.until

    def _stop(self, runtime_id: str, engine_id: str) -> None:
        """Stops an engine in the background; a failure is tried again by a later pass."""
        if engine_id in self._stopping:
            return
        _log.info("stopping %s on %s", engine_id, runtime_id)

        async def stop() -> None:
            try:
                await self._fleet.stop(runtime_id, engine_id)
            except MeshError as error:
                _log.warning("%s could not be stopped yet: %s", engine_id, error.message)
            finally:
                del self._stopping[engine_id]
                self.wake()

        self._stopping[engine_id] = asyncio.create_task(stop())


def _without(replicas: tuple[Replica, ...], gone: Replica) -> tuple[Replica, ...]:
    return tuple(replica for replica in replicas if replica.engine_id != gone.engine_id)


def _weights_bytes(version: Version) -> int:
    return version.artifact.weights_bytes if version.artifact else 0


def _new_engine_id(version: Version) -> str:
    return f"{version.model}-v{version.number}-{secrets.token_hex(3)}"


def _first_failure(replicas: tuple[Replica, ...]) -> FailureRecord | None:
    failed = (replica.failure for replica in replicas if replica.phase is Phase.FAILED)
    return next((failure for failure in failed if failure is not None), None)


def _no_room(version: Version, room: NoRoom, silent: list[str]) -> FailureRecord:
    if room.runtimes == 0 and silent:
        names = ", ".join(silent)
        return FailureRecord.of(NoRuntime(f"no runtime answers just now; not answering: {names}"))
    if room.runtimes == 0:
        return FailureRecord.of(NoRuntime("no runtime is up; start one, then load again"))
    return FailureRecord.of(
        InsufficientMemory(
            f"{version.label} needs {room.needed_bytes // _MIB:,} MiB and the freest of"
            f" {room.runtimes} runtimes has {room.most_available_bytes // _MIB:,} MiB;"
            " unload another model or add a host",
        )
    )

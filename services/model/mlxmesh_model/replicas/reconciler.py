"""The loop that makes the running replicas match the desired replicas."""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from mlxmesh_model.catalogue.models import (
    PLACEMENT_RETRY_S,
    FailureRecord,
    Phase,
    Replica,
    Version,
)
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.replicas import plan
from mlxmesh_model.replicas.fetch_retries import FetchRetries
from mlxmesh_model.replicas.lease import Leadership
from mlxmesh_model.replicas.placement import NoCapacity, Runtime, place
from mlxmesh_model.replicas.policy_pass import Observed, PolicyPass
from mlxmesh_model.replicas.rejections import Rejections, rejection_cause
from mlxmesh_model.replicas.runtimes import Runtimes
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    InsufficientMemory,
    MeshError,
    ModelFilesDamaged,
    ModelNotFound,
    NoRuntime,
    ServiceUnavailable,
)

_log = logging.getLogger(__name__)

Observe = Callable[[Sequence[Version], Mapping[str, Runtime]], None]
_MIB = 1024 * 1024
# While nothing is missing or changing, every change wakes the reconciler: a pass now and then only
# finds what no event reported.
_SETTLED_INTERVALS = 30


class _Outdated(Exception):
    """The version was loaded or unloaded since this pass read it."""


@dataclass(slots=True)
class _Pass:
    """The state of one pass: the runtimes, and what was promised on each of them."""

    observed: Observed

    @property
    def runtimes(self) -> Mapping[str, Runtime]:
        return self.observed.runtimes

    def draft_of(self, version: Version) -> Version | None:
        """The draft model that its engines load too; None for none, or if it is gone."""
        label = version.settings.draft_model
        found = (each for each in self.observed.versions if each.label == label)
        return next(found, None) if label is not None else None

    def weights_bytes(self, version: Version) -> int:
        """Of an engine, with its draft model; of rank 0, if a group computes it."""
        draft = self.draft_of(version)
        artifacts = [version.artifact, draft.artifact if draft is not None else None]
        total = sum(artifact.weights_bytes for artifact in artifacts if artifact is not None)
        return total // (version.settings.group_size or 1)

    @property
    def open_runtimes(self) -> frozenset[str]:
        return frozenset(r.runtime_id for r in self.runtimes.values() if r.accepts_engines)

    @property
    def unresponsive(self) -> list[str]:
        return sorted(r.runtime_id for r in self.runtimes.values() if r.engines is None)

    @property
    def draining(self) -> frozenset[str]:
        return frozenset(r.runtime_id for r in self.runtimes.values() if r.draining)


@dataclass(frozen=True, slots=True)
class _PlacementFailure:
    """Why a version could not be placed; valid until `retry_at_s`, or until its intent or the open
    runtimes change.
    """

    failure: FailureRecord
    intent: int
    open_runtimes: frozenset[str]
    retry_at_s: float


class Reconciler:
    """Compares the desired replicas with the engines of all runtimes and corrects the difference.

    A pass is serial and short: engines are stopped in separate tasks, because stopping drains them.
    """

    def __init__(
        self,
        *,
        store: Store,
        runtimes: Runtimes,
        interval_s: float = 1.0,
        placement_retry_s: float = PLACEMENT_RETRY_S,
        rejections: Rejections | None = None,
        fetch_retries: FetchRetries | None = None,
        policies: PolicyPass | None = None,
        clock: Callable[[], float] = time.monotonic,
        leadership: Leadership | None = None,
        observers: Sequence[Observe] = (),
    ) -> None:
        """Without a leadership there must be no other reconciler. observers: see each pass."""
        self._store = store
        self._leadership = leadership
        self._runtimes = runtimes
        self._interval_s = interval_s
        self._placement_retry_s = placement_retry_s
        self._rejections = rejections or Rejections()
        self._fetch_retries = fetch_retries or FetchRetries()
        self._observers = observers
        self._clock = clock
        self._policies = policies or PolicyPass(store=store, clock=clock)
        self._woken = asyncio.Event()
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._placement_failures: dict[str, _PlacementFailure] = {}
        self._settled = False
        self._look_again_s: float | None = None

    def wake(self) -> None:
        """Starts the next pass at once."""
        self._woken.set()

    async def run(self) -> None:
        """Runs a pass when woken, and once per interval until settled; until cancelled."""
        try:
            while True:
                self._woken.clear()
                self._settled = False
                try:
                    await self.reconcile()
                except MeshError as error:
                    _log.warning("reconciling failed (%s); retrying soon", error.message)
                except Exception:  # noqa: BLE001 - one failed pass must not end all later ones
                    _log.exception("reconciling failed; retrying in %g s", self._interval_s)
                # Not wait_for: in Python 3.11 it may lose a cancellation at the time of the event.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._woken.wait()
        finally:
            for task in self._stopping.values():
                task.cancel()
            await asyncio.gather(*self._stopping.values(), return_exceptions=True)

    def _pause_s(self) -> float:
        if not self._settled:
            return self._interval_s
        pause_s = self._interval_s * _SETTLED_INTERVALS
        return pause_s if self._look_again_s is None else min(pause_s, self._look_again_s)

    async def reconcile(self) -> None:
        """One pass over all versions."""
        runtimes = {runtime.runtime_id: runtime for runtime in await self._runtimes.observe()}
        policies = self._policies
        observed = policies.observe(await self._store.models(), runtimes)
        if await policies.apply(observed):
            observed = policies.observe(await self._store.models(), runtimes)
        self._look_again_s = policies.look_again_s(observed, self._interval_s)
        await self._reconcile(_Pass(observed))

    async def _reconcile(self, this_pass: _Pass) -> None:
        runtimes, versions = this_pass.runtimes, this_pass.observed.versions
        wanted = {version.label for version in versions if version.desired_replicas}
        self._rejections.retain(wanted, runtimes)
        self._fetch_retries.retain({one.engine_id for each in versions for one in each.replicas})
        for observe in self._observers:
            observe(versions, runtimes)
        self._settled = plan.settled(versions, runtimes.values()) and not self._stopping
        for version in self._policies.in_order(versions):
            if version.desired_replicas or version.replicas:
                try:
                    await self._settle(version, this_pass)
                except _Outdated:
                    self.wake()
        for runtime_id, engine_id in plan.orphans(versions, runtimes.values()):
            self._stop(runtime_id, engine_id)
            self._settled = False

    async def _settle(self, version: Version, this_pass: _Pass) -> None:
        """Brings one version as close to its desired replicas as one pass can."""
        desired, draining = version.desired_replicas, this_pass.draining
        settings_id = version.settings_id
        replicas = self._fetch_retries.apply(plan.observe(version, this_pass.runtimes))
        replicas = plan.trim(replicas, desired=desired, draining=draining, settings_id=settings_id)
        unplaced: FailureRecord | None = None
        for pending in [replica for replica in replicas if replica.phase is Phase.PENDING]:
            started = await self._start(version, pending, this_pass)
            replicas = _without(replicas, pending)
            if isinstance(started, Replica):
                replicas += (started,)
        missing = plan.missing(
            replicas, desired=desired, draining=draining, settings_id=settings_id
        )
        for _ in range(missing):
            placed = await self._place(version, replicas, this_pass)
            if not isinstance(placed, Replica):
                unplaced = placed
                break
            replicas += (placed,)
        if unplaced is not None and unplaced.reason == InsufficientMemory.reason:
            with_room = plan.make_room(replicas, settings_id=settings_id)
            if with_room is not None:
                replicas, unplaced = with_room, None
        await self._record(version, replicas, unplaced or _first_failure(replicas))
        for replica in replicas:
            if replica.phase is Phase.STOPPING:
                self._stop(replica.runtime_id, replica.engine_id)

    async def _place(
        self, version: Version, replicas: tuple[Replica, ...], this_pass: _Pass
    ) -> Replica | FailureRecord | None:
        """One more replica on the best runtime that accepts it, or why none does; None while others
        make room for it.
        """
        if obstacle := _obstacle(version, this_pass):
            return obstacle
        known = self._placement_failures.get(version.label)
        if known and self._is_valid(known, version, this_pass):
            return known.failure
        rejections: dict[str, FailureRecord] = {}
        while True:
            runtime = place(
                this_pass.runtimes.values(),
                weights_bytes=this_pass.weights_bytes(version),
                replicas_on=Counter(replica.runtime_id for replica in replicas),
                reserved=this_pass.observed.reserved,
                rejected_by=frozenset(rejections),
                max_engines=self._policies.settings.max_engines,
            )
            if isinstance(runtime, NoCapacity):
                if await self._makes_room(version, rejections, this_pass):
                    return None
                rejection = next(iter(rejections.values()), None)
                failure = rejection or _no_capacity(version, runtime, this_pass.unresponsive)
                return self._remember(version, this_pass, failure)
            replica = Replica(
                _new_engine_id(version), runtime.runtime_id, settings_id=version.settings_id
            )
            # Recorded before the runtime is asked, because an engine that is not in the catalogue
            # is stopped. The version's failure is updated only once the runtime has responded.
            await self._record(version, (*replicas, replica), version.failure)
            started = await self._start(version, replica, this_pass)
            if isinstance(started, Replica):
                self._placement_failures.pop(version.label, None)
                self._policies.placed(version)
                return started
            rejections[runtime.runtime_id] = started

    async def _makes_room(
        self, version: Version, rejections: Mapping[str, FailureRecord], this_pass: _Pass
    ) -> bool:
        """Whether other versions give way, now or as soon as they may."""
        short = InsufficientMemory.reason
        full = [one for one, cause in rejections.items() if cause.reason == short]
        asked = full or [one for one in this_pass.open_runtimes if one not in rejections]
        made = bool(asked) and await self._policies.make_room(
            version, this_pass.observed, runtime_ids=asked, rejected=bool(full)
        )
        if made:
            self._settled = False
        if this_pass.observed.leaving:
            self.wake()
        return made

    async def _start(
        self, version: Version, replica: Replica, this_pass: _Pass
    ) -> Replica | FailureRecord:
        """The started replica, still pending when its runtime does not respond, or why the runtime
        rejected it.
        """
        if obstacle := _obstacle(version, this_pass):
            return obstacle
        try:
            engine = await self._runtimes.start(
                replica.runtime_id, replica.engine_id, version, this_pass.draft_of(version)
            )
        except (ServiceUnavailable, DeadlineExceeded) as error:
            _log.warning("%s could not be started yet: %s", replica.engine_id, error.message)
            return replica
        except MeshError as error:
            cause = rejection_cause(replica.runtime_id, version, error)
            self._rejections.add(version, replica.runtime_id, cause)
            return cause
        self._rejections.remove(version, replica.runtime_id)
        this_pass.observed.reserved.add(replica.runtime_id, this_pass.weights_bytes(version))
        return replace(replica, phase=engine.phase, failure=engine.failure)

    async def _record(
        self, version: Version, replicas: tuple[Replica, ...], failure: FailureRecord | None
    ) -> None:
        updated = version.with_replicas(replicas, failure)
        # Most passes find nothing to change, and an idle mesh must not write to the database.
        if updated == version:
            return
        may_write = self._leadership.may_write if self._leadership is not None else None
        if not await self._store.record(updated, may_write=may_write):
            raise _Outdated

    def _remember(
        self, version: Version, this_pass: _Pass, failure: FailureRecord
    ) -> FailureRecord:
        """Stores the failure, so that full runtimes are not asked in every pass."""
        self._placement_failures[version.label] = _PlacementFailure(
            failure,
            version.intent,
            this_pass.open_runtimes,
            retry_at_s=self._clock() + self._placement_retry_s,
        )
        return failure

    def _is_valid(self, known: _PlacementFailure, version: Version, this_pass: _Pass) -> bool:
        same = (known.intent, known.open_runtimes) == (version.intent, this_pass.open_runtimes)
        return same and self._clock() < known.retry_at_s

    def _leads(self) -> bool:
        return self._leadership is None or self._leadership.leads()

    def _stop(self, runtime_id: str, engine_id: str) -> None:
        """Stops an engine in the background; a later pass retries a failure."""
        if engine_id in self._stopping or not self._leads():
            return
        _log.info("stopping %s on %s", engine_id, runtime_id)

        async def stop() -> None:
            try:
                await self._runtimes.stop(runtime_id, engine_id)
            except MeshError as error:
                _log.warning("%s could not be stopped yet: %s", engine_id, error.message)
            finally:
                del self._stopping[engine_id]
                # Its memory is free: what did not fit may fit now.
                self._placement_failures.clear()
                self.wake()

        self._stopping[engine_id] = asyncio.create_task(stop())


def _obstacle(version: Version, this_pass: _Pass) -> FailureRecord | None:
    """Why a version with damaged files, or without its draft model, must not be loaded."""
    draft = this_pass.draft_of(version)
    try:
        version.check_files()
        if draft is not None:
            draft.check_files()
    except ModelFilesDamaged as error:
        return FailureRecord.of(error)
    wanted = version.settings.draft_model
    if wanted is not None and (draft is None or draft.artifact is None):
        return FailureRecord.of(
            ModelNotFound(f"the draft model {wanted} of {version.label} has no files any more")
        )
    return None


def _without(replicas: tuple[Replica, ...], gone: Replica) -> tuple[Replica, ...]:
    return tuple(replica for replica in replicas if replica.engine_id != gone.engine_id)


def _new_engine_id(version: Version) -> str:
    return f"{version.model}-v{version.number}-{secrets.token_hex(3)}"


def _first_failure(replicas: tuple[Replica, ...]) -> FailureRecord | None:
    failed = (replica.failure for replica in replicas if replica.phase is Phase.FAILED)
    return next((failure for failure in failed if failure is not None), None)


def _no_capacity(version: Version, found: NoCapacity, unresponsive: list[str]) -> FailureRecord:
    if found.runtimes == 0 and unresponsive:
        names = ", ".join(unresponsive)
        return FailureRecord.of(NoRuntime(f"no runtime responds; not responding: {names}"))
    if found.runtimes == 0:
        return FailureRecord.of(NoRuntime("no runtime is running; start one, then load again"))
    if found.all_full:
        return FailureRecord.of(
            InsufficientMemory(
                f"there is no room for {version.label}: each of {found.runtimes} runtimes has as"
                " many engines as [model] max_engines_per_runtime allows, and none of them may be"
                " unloaded; unload a model, or add a host"
            )
        )
    return FailureRecord.of(
        InsufficientMemory(
            f"{version.label} needs {found.needed_bytes // _MIB:,} MiB and the freest of"
            f" {found.runtimes} runtimes has {found.most_available_bytes // _MIB:,} MiB;"
            " unload another model or add a host",
        )
    )

"""Applies policies to the catalogue, and makes room on the runtimes, in each pass."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mlxmesh_model.catalogue.models import Model, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.replicas.eviction import MakeRoom as RoomMade
from mlxmesh_model.replicas.eviction import Need, Never, Resident, Space, make_room, relieve
from mlxmesh_model.replicas.placement import Reserved, Runtime
from mlxmesh_model.replicas.policy_decisions import (
    Adjustment,
    Cause,
    Needed,
    adjustments,
    is_evictable,
    look_again_s,
)
from mlxmesh_model.replicas.scaling import Scaling
from mlxmesh_model.replicas.spaces import spaces
from mlxmesh_model.replicas.usage import Usage, UsageTracker, needed_bytes
from mlxmesh_shared.errors import MeshError

_log = logging.getLogger(__name__)

RELIEF_PAUSE_S = 5.0
"""How long to wait after versions gave way before more of the same host have to."""

OnAdjustment = Callable[[Adjustment], None]
"""Called after each change."""


def _ignore(_: Adjustment) -> None:
    pass


ReadNeeded = Callable[[], Awaitable[Needed]]


async def _nothing() -> Needed:
    return ()


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What the model service's settings say about policies."""

    load_on_demand: bool = True
    """For models whose policy does not say."""
    max_engines: int = 0
    """Of each runtime; 0 for as many as fit into its memory."""


@dataclass(slots=True)
class Observed:
    """The catalogue and the runtimes at the start of a pass."""

    models: Mapping[str, Model]
    runtimes: Mapping[str, Runtime]
    usages: Mapping[str, Usage]
    reserved: Reserved = field(default_factory=Reserved)
    leaving: set[str] = field(default_factory=set[str])
    """Versions that were unloaded in this pass."""

    @property
    def versions(self) -> list[Version]:
        """Every version that engines run."""
        return [
            version
            for model in self.models.values()
            for version in model.versions
            if version.upstream is None
        ]


class PolicyPass:
    """Loads, scales and unloads versions as policies, queues and memory demand.

    Its memory (queue times, who waits) is that of the leader; a new leader starts without.
    """

    def __init__(
        self,
        *,
        store: Store,
        settings: PolicySettings | None = None,
        scaling: Scaling | None = None,
        on_adjustment: OnAdjustment = _ignore,
        read_needed: ReadNeeded = _nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self.settings = settings or PolicySettings()
        self._scaling = scaling or Scaling()
        self._on_adjustment = on_adjustment
        self._read_needed = read_needed
        self._needed: Needed = frozenset()
        self._clock = clock
        self._tracker = UsageTracker()
        self._last: Observed | None = None
        self._waiting_since: dict[str, float] = {}
        # By runtime id: when versions were last unloaded because it was short of memory.
        self._relieved_s: dict[str, float] = {}

    def note_use(self, label: str, idle_s: float) -> None:
        """Notes how long ago a caller last used a version."""
        self._tracker.note_use(label, self._clock() - idle_s)

    def in_use(self, label: str) -> bool:
        """Whether a version has a sequence, or may have one: nothing was observed yet, or one of
        its runtimes does not respond.
        """
        if self._last is None:
            return True
        version = next((one for one in self._last.versions if one.label == label), None)
        if version is None:
            return False
        used_by = [self._last.runtimes.get(replica.runtime_id) for replica in version.replicas]
        silent = any(runtime is not None and runtime.engines is None for runtime in used_by)
        return silent or self._last.usages.get(label, Usage()).busy

    def observe(self, models: Iterable[Model], runtimes: Mapping[str, Runtime]) -> Observed:
        """The state of this pass."""
        by_name = {model.name: model for model in models}
        versions = Observed(by_name, runtimes, {}).versions
        loaded = [version for version in versions if version.replicas]
        wanted = {version.label for version in versions if version.desired_replicas}
        self._scaling.retain(wanted)
        waiting = self._waiting_since.items()
        self._waiting_since = {label: since for label, since in waiting if label in wanted}
        usages = self._tracker.observe(loaded, runtimes, self._clock())
        self._last = Observed(by_name, runtimes, usages)
        return self._last

    async def apply(self, observed: Observed) -> bool:
        """Changes the catalogue as policies and short memory demand; whether it changed."""
        now_s = self._clock()
        self._needed = await self._read_needed()
        asked = adjustments(
            observed.models.values(), observed.usages, self._scaling, now_s, self._needed
        )
        changed = [await self._adjust(each, observed) for each in list(asked)]
        return any(changed) | await self._relieve(observed)

    def in_order(self, versions: Iterable[Version]) -> list[Version]:
        """The versions, those that wait for room the longest first."""
        last = float("inf")
        return sorted(versions, key=lambda one: self._waiting_since.get(one.label, last))

    async def make_room(
        self, version: Version, observed: Observed, *, runtime_ids: Sequence[str], rejected: bool
    ) -> bool:
        """Whether there will be room for one more engine of a version on one of these runtimes.

        rejected: whether they said themselves that they have none.
        """
        now_s = self._clock()
        since_s = self._waiting_since.setdefault(version.label, now_s)
        need = Need(
            version.label,
            needed_bytes(version),
            waited_s=now_s - since_s,
            urgent=not version.ready_replicas,
        )
        rejected_by = runtime_ids if rejected else ()
        found = [
            space
            for space in self._spaces(observed, rejected_by)
            if space.runtime_id in runtime_ids
        ]
        room = make_room(need, found)
        if isinstance(room, Never):
            del self._waiting_since[version.label]
            return False
        if isinstance(room, RoomMade):
            # Versions that began to wait later must not take it.
            observed.reserved.add(room.runtime_id, need.memory_bytes)
            await self._evict(room.victims, observed, for_version=version.label)
        return True

    def placed(self, version: Version) -> None:
        """Notes that a version no longer waits for room."""
        self._waiting_since.pop(version.label, None)

    def look_again_s(self, observed: Observed, interval_s: float) -> float | None:
        """When the next pass is due although nothing changes."""
        return look_again_s(observed.models.values(), observed.usages, interval_s=interval_s)

    async def _relieve(self, observed: Observed) -> bool:
        """Unloads versions on hosts that are short of memory; whether it did."""
        victims: list[Resident] = []
        for space in self._spaces(observed, ()):
            shortage_bytes = observed.runtimes[space.runtime_id].memory_shortage_bytes
            if shortage_bytes > 0 and self._may_relieve(space.runtime_id):
                chosen = relieve(space, shortage_bytes)
                if chosen:
                    self._relieved_s[space.runtime_id] = self._clock()
                victims += chosen
        return await self._evict(victims, observed, for_version="")

    def _may_relieve(self, runtime_id: str) -> bool:
        """What a runtime reports is a little older than the last version that gave way."""
        last_s = self._relieved_s.get(runtime_id)
        return last_s is None or self._clock() - last_s >= RELIEF_PAUSE_S

    async def _evict(
        self, victims: Iterable[Resident], observed: Observed, *, for_version: str
    ) -> bool:
        changed = False
        for label in dict.fromkeys(victim.label for victim in victims):
            [version] = [one for one in observed.versions if one.label == label]
            usage = observed.usages.get(label, Usage())
            change = Adjustment(version, 0, Cause.EVICTED, usage, for_version)
            changed |= await self._adjust(change, observed)
        return changed

    async def _adjust(self, change: Adjustment, observed: Observed) -> bool:
        version = change.version
        try:
            if not await self._store.adjust(version, replicas=change.replicas):
                return False
        except MeshError as error:
            _log.warning("%s could not be adjusted: %s", version.label, error.message)
            return False
        if not change.replicas:
            observed.leaving.add(version.label)
        _log.info(
            "%s: %d instead of %d replicas (%s)",
            version.label,
            change.replicas,
            version.desired_replicas,
            change.cause.value,
        )
        self._on_adjustment(change)
        return True

    def _spaces(self, observed: Observed, rejected_by: Sequence[str]) -> list[Space]:
        return spaces(
            observed.versions,
            observed.runtimes,
            observed.usages,
            lambda version: is_evictable(
                observed.models[version.model],
                version,
                self._needed,
                on_demand_default=self.settings.load_on_demand,
            ),
            reserved=observed.reserved,
            leaving=observed.leaving,
            max_engines=self.settings.max_engines,
            rejected_by=rejected_by,
        )

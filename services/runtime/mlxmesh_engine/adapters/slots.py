"""Which adapters are in slots: read when first needed, evicted when others need the memory.

Used on the MLX thread. Files are read and checked on a thread of their own; what is left for the
MLX thread is one copy of the matrices between two steps.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from mlxmesh_engine.adapters.layers import (
    NO_ADAPTER,
    AdaptableLayers,
    Footprint,
    PreparedAdapter,
)
from mlxmesh_engine.adapters.locating import LocateAdapter, directory_of
from mlxmesh_engine.scheduling.request import AdapterSource
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_shared.errors import AdapterInvalid, EngineFailed, MeshError
from mlxmesh_shared.lora.adapter_files import read_adapter
from mlxmesh_shared.lora.module_paths import Shapes

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Resident:
    """An adapter in a slot."""

    slot: int
    footprint: Footprint
    users: int = 0
    """Running sequences."""


class AdapterSlots:
    """Implements the scheduler's `AdapterGate`.

    `on_read` is called on another thread whenever files were read, so that a step follows; `locate`
    is called there too, and returns the directory of an adapter's files.
    """

    def __init__(
        self,
        layers: AdaptableLayers,
        *,
        max_adapters: int,
        max_bytes: int,
        on_read: Callable[[], None] = lambda: None,
        locate: LocateAdapter = directory_of,
    ) -> None:
        self._layers = layers
        self._max_adapters = max_adapters
        self._max_bytes = max_bytes
        self._on_read = on_read
        self._locate = locate
        self._residents: OrderedDict[str, _Resident] = OrderedDict()
        """By digest, in the order of their last use."""
        self._reading: dict[str, Future[PreparedAdapter]] = {}
        self._errors: dict[str, MeshError] = {}
        self._failed: list[tuple[ActiveSequence, MeshError]] = []
        self._reader: ThreadPoolExecutor | None = None
        self._announced: set[str] = set()
        self.full = False
        self.version = 0

    @property
    def digests(self) -> tuple[str, ...]:
        """Of the adapters in slots, the least recently used first."""
        return tuple(self._residents)

    @property
    def nbytes(self) -> int:
        """The memory of the slots."""
        return self._layers.nbytes(self._footprints()) if self._residents else 0

    def poll(self) -> None:
        """Call it before each step: notices what was read."""
        for digest, reading in self._reading.items():
            if reading.done() and digest not in self._announced:
                self._announced.add(digest)
                self.version += 1

    def pop_failed(self) -> list[tuple[ActiveSequence, MeshError]]:
        """Returns once each sequence whose adapter cannot be used, and why."""
        failed, self._failed = self._failed, []
        self._errors.clear()
        return failed

    def acquire(self, active: ActiveSequence) -> bool:
        """Gives a sequence the slot of its adapter; False if it has to wait, or has failed."""
        source = active.request.adapter
        if source is None:
            return True
        resident = self._residents.get(source.digest)
        if resident is None:
            try:
                resident = self._load(source)
            except Exception as error:  # noqa: BLE001 - files and MLX may raise anything
                self._fail(active, source, error)
        if resident is None:
            return False
        resident.users += 1
        self._residents.move_to_end(source.digest)
        active.slot = resident.slot
        return True

    def _fail(self, active: ActiveSequence, source: AdapterSource, error: Exception) -> None:
        if not isinstance(error, MeshError):
            _log.error("the adapter in %s cannot be loaded", source.directory, exc_info=error)
            error = EngineFailed("the engine could not load the adapter; see its log")
        self._errors[source.digest] = error
        self._failed.append((active, error))

    def release(self, active: ActiveSequence) -> None:
        """Takes a sequence's slot back; without one it does nothing."""
        source = active.request.adapter
        if source is None or active.slot == NO_ADAPTER:
            return
        active.slot = NO_ADAPTER
        resident = self._residents[source.digest]
        resident.users -= 1
        if not resident.users:
            self.full = False
            self.version += 1

    def close(self) -> None:
        """Ends the reader's thread once what it reads is read."""
        if self._reader is not None:
            self._reader.shutdown(wait=False, cancel_futures=True)

    def _load(self, source: AdapterSource) -> _Resident | None:
        """Puts an adapter that was read into a slot, or has it read; None if that takes longer.

        Raises: AdapterNotFound, AdapterInvalid; anything else.
        """
        digest = source.digest
        if (error := self._errors.get(digest)) is not None:
            raise error
        reading = self._reading.get(digest)
        if reading is None:
            self._start_reading(source)
            return None
        if not reading.done():
            return None
        try:
            resident = self._install(source, reading.result())
        except Exception:
            self._forget_reading(digest)
            raise
        if resident is not None:
            self._forget_reading(digest)
        return resident

    def _start_reading(self, source: AdapterSource) -> None:
        """Only as many as there are slots for them: what was read is in memory."""
        unused = sum(not resident.users for resident in self._residents.values())
        free = self._max_adapters - len(self._residents)
        if not unused + free:
            self.full = True
            return
        if len(self._reading) >= unused + free:
            # Whoever still waited for these would have put them into a slot.
            for digest in [digest for digest, each in self._reading.items() if each.done()]:
                self._forget_reading(digest)
        if len(self._reading) >= unused + free:
            return
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="adapters")
        read = partial(_read, self._layers, self._layers.shapes(), source, self._locate)
        self._reading[source.digest] = reading = self._reader.submit(read)
        reading.add_done_callback(lambda _: self._on_read())

    def _forget_reading(self, digest: str) -> None:
        """It ended in a slot, or in an error: who waited for it can go on."""
        del self._reading[digest]
        self._announced.discard(digest)
        self.version += 1

    def _install(self, source: AdapterSource, prepared: PreparedAdapter) -> _Resident | None:
        """None if running sequences use the memory that it needs.

        Raises: AdapterInvalid if it needs more than there is.
        """
        slot = self._make_room(prepared.footprint)
        if slot is None:
            self.full = True
            return None
        slots = {**self._footprints(), slot: prepared.footprint}
        began_s = time.monotonic()
        try:
            self._layers.install(prepared, slot, slots, self._max_bytes)
        except Exception:
            self._layers.remove(slot)
            raise
        _log.info(
            "an adapter is loaded",
            extra={
                "fields": {
                    "adapter": source.digest,
                    "slot": slot,
                    "rank": prepared.footprint.rank,
                    "bytes": prepared.footprint.nbytes,
                    "milliseconds": round((time.monotonic() - began_s) * 1e3, 1),
                }
            },
        )
        self._residents[source.digest] = resident = _Resident(slot, prepared.footprint)
        return resident

    def _make_room(self, footprint: Footprint) -> int | None:
        """A free slot with memory for the adapter; evicts those that no running sequence uses."""
        while True:
            taken = self._footprints()
            slot = next(n for n in range(1, len(taken) + 2) if n not in taken)
            if slot <= self._max_adapters:
                needed = self._layers.nbytes({**taken, slot: footprint})
                if needed <= self._max_bytes:
                    return slot
                if not taken:
                    raise AdapterInvalid(
                        f"the adapter needs {needed} bytes, but the engine's slots have "
                        f"{self._max_bytes}; raise adapter_bytes",
                        field="adapter",
                    )
            unused = (each for each, it in self._residents.items() if not it.users)
            if (digest := next(unused, None)) is None:
                return None
            self._layers.remove(self._residents.pop(digest).slot)

    def _footprints(self) -> dict[int, Footprint]:
        return {each.slot: each.footprint for each in self._residents.values()}


def _read(
    layers: AdaptableLayers, shapes: Shapes, source: AdapterSource, locate: LocateAdapter
) -> PreparedAdapter:
    """Raises: AdapterNotFound, AdapterInvalid, OSError; what `locate` raises."""
    files = read_adapter(locate(source))
    if files.digest != source.digest:
        raise AdapterInvalid(
            f"the files in {source.directory} have changed since the adapter was added; add it "
            "again",
            field="adapter",
        )
    return layers.prepare(files.check_against(shapes))

"""Takes samples of completed generations and repeats them while there is room."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from mlxmesh_generation.domain.outcome import Outcome, Status
from mlxmesh_generation.domain.routing import Shadow
from mlxmesh_generation.placement.spare import SpareEngines
from mlxmesh_generation.shadowing.pair import DropReason, Pair, reason_of
from mlxmesh_generation.shadowing.queue import Sampled, SampleQueue
from mlxmesh_generation.shadowing.repetition import Repetitions, answer_of
from mlxmesh_generation.shadowing.sampling import takes
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.streams.telemetry import Decode
from mlxmesh_shared.errors import Cancelled, MeshError
from mlxmesh_shared.telemetry import attributes
from mlxmesh_shared.telemetry.instruments import Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Metrics, Reading

MAX_REPEATED = 2
"""At the same time in this process."""
# How soon a repetition makes way for a sequence that another process placed.
POLL_S = 0.05

REPEATED = Instrument(
    "mlxmesh.shadow.repeated",
    Kind.COUNTER,
    "{request}",
    "Requests that were repeated for a shadow, and compared",
)
DROPPED = Instrument(
    "mlxmesh.shadow.dropped",
    Kind.COUNTER,
    "{request}",
    "Sampled requests that were not compared, by reason",
)

_log = logging.getLogger(__name__)

RecordPair = Callable[[str, Pair], None]
"""Called with the shadow's id and what was compared."""
HasShadow = Callable[[str, str], bool]
"""Whether a model has a shadow."""
RecordDrop = Callable[[str, DropReason], None]
"""Called with the shadow's id for a sampled request that was dropped."""


class Shadowing:
    """Repeats requests only where no caller's sequence runs, so that none ever waits for them."""

    def __init__(
        self,
        *,
        repetitions: Repetitions,
        engines: SpareEngines,
        has_shadow: HasShadow,
        queue: SampleQueue,
        record_pair: RecordPair,
        record_drop: RecordDrop,
        max_wait_s: float,
        max_repeated: int = MAX_REPEATED,
        metrics: Metrics | None = None,
    ) -> None:
        """max_wait_s: how long a request waits for room before it is dropped."""
        self._repetitions = repetitions
        self._engines = engines
        self._has_shadow = has_shadow
        self._queue = queue
        self._record_pair = record_pair
        self._record_drop = record_drop
        self._max_wait_s = max_wait_s
        self._max_repeated = max_repeated
        self._wake = asyncio.Event()
        self._running = 0
        self.repeated = 0
        self.dropped: Counter[DropReason] = Counter()
        metrics = metrics or Metrics()
        metrics.observe_value(REPEATED, lambda: self.repeated)
        metrics.observe(DROPPED, self._read_dropped)

    def on_ended(
        self, plan: Plan, outcome: Outcome, token_ids: Sequence[int], decode: Decode
    ) -> None:
        """Satisfies OnEnded: a caller's generation has ended."""
        if plan.request.flex:
            return  # its times say nothing about its version
        for shadow in plan.shadows:
            if takes(shadow, plan.request.request_id):
                self._sample(shadow, plan, outcome, token_ids, decode)

    async def run(self) -> None:
        """Repeats what was sampled, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                # Nothing waits for a shadow that was stopped meanwhile.
                self._queue.discard(self._is_stopped)
                self._drop_expired()
                self._engines.yield_to_others()
                for sampled in self._startable():
                    self._running += 1
                    tasks.create_task(self._repeat(sampled))
                await self._until_next()

    def _sample(
        self,
        shadow: Shadow,
        plan: Plan,
        outcome: Outcome,
        token_ids: Sequence[int],
        decode: Decode,
    ) -> None:
        if outcome.status is not Status.COMPLETED:
            self._drop(shadow, DropReason.PRIMARY_INCOMPLETE)
            return
        sampled = Sampled(
            shadow=shadow,
            request=plan.request,
            version=plan.version,
            seed=plan.seed,
            answer=answer_of(outcome, token_ids),
            text_of=decode,
            expires_s=time.monotonic() + self._max_wait_s,
            adapter=plan.adapter,
        )
        if self._queue.put(sampled):
            self._wake.set()
        else:
            self._drop(shadow, DropReason.NO_ROOM)

    def _startable(self) -> Iterator[Sampled]:
        """Those that have room now; release or put back each of them later."""
        rooms: dict[tuple[str, int], bool] = {}

        def has_room(sampled: Sampled) -> bool:
            wanted = sampled.version.name, sampled.shadow.to_version
            if wanted not in rooms:
                rooms[wanted] = self._engines.has_room(*wanted)
            return rooms[wanted]

        while self._running < self._max_repeated:
            sampled = self._queue.take(has_room)
            if sampled is None:
                return
            yield sampled

    def _is_stopped(self, sampled: Sampled) -> bool:
        return not self._has_shadow(sampled.version.name, sampled.shadow.shadow_id)

    async def _repeat(self, sampled: Sampled) -> None:
        try:
            pair = await self._repetitions.compare(sampled)
        except Cancelled:
            # It made way, and is repeated from the beginning once there is room again.
            self._queue.put_back(sampled)
        except MeshError as error:
            self._end(sampled, reason_of(error))
        except Exception:  # noqa: BLE001 - other shadows go on
            _log.exception("a repetition of shadow %s failed", sampled.shadow.shadow_id)
            self._end(sampled, DropReason.FAILED)
        else:
            self.repeated += 1
            self._record_pair(sampled.shadow.shadow_id, pair)
            self._queue.release(sampled)
        finally:
            self._running -= 1
            self._wake.set()

    def _end(self, sampled: Sampled, reason: DropReason) -> None:
        self._queue.release(sampled)
        self._drop(sampled.shadow, reason)

    def _drop_expired(self) -> None:
        for sampled in self._queue.take_expired(time.monotonic()):
            self._drop(sampled.shadow, DropReason.NO_ROOM)

    def _drop(self, shadow: Shadow, reason: DropReason) -> None:
        self.dropped[reason] += 1
        self._record_drop(shadow.shadow_id, reason)

    async def _until_next(self) -> None:
        """Returns after a change, and regularly while something waits or runs."""
        busy = self._running or len(self._queue)
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S if busy else None):
                await self._wake.wait()
        self._wake.clear()

    def _read_dropped(self) -> Reading:
        for reason in DropReason:
            yield self.dropped[reason], {attributes.SHADOW_DROP_REASON: reason.value}

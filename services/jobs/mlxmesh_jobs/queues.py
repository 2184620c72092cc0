"""What is shown of queues: who takes their jobs, and why none starts. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_jobs.domain.jobs import QueueCounts, QueueSettings
from mlxmesh_jobs.workers.messages import WorkerFacts
from mlxmesh_shared.errors import QueueNotFound

_NO_SETTINGS = QueueSettings()
BATCH = "batch"
"""Its jobs are run by jobs services."""


@dataclass(frozen=True, kw_only=True)
class ShownQueue:
    """A queue with what is said of it."""

    counts: QueueCounts
    workers: int
    blocked: str
    """Why no waiting job starts; empty otherwise."""


def shown(queues: Sequence[QueueCounts], workers: Sequence[WorkerFacts]) -> list[ShownQueue]:
    """All queues that have settings, jobs or workers, by name."""
    known = {each.name: each for each in queues}
    named = {name for each in workers for name in (*each.queues, *each.connectors)}
    for name in named - known.keys():
        known[name] = QueueCounts(name=name, settings=_NO_SETTINGS)
    return [_shown(known[name], workers) for name in sorted(known)]


def one(queues: Sequence[ShownQueue], name: str) -> ShownQueue:
    """The queue with a name. Raises: QueueNotFound."""
    for queue in queues:
        if queue.counts.name == name:
            return queue
    raise QueueNotFound(f"there is no queue {name}", field="name")


def _shown(counts: QueueCounts, workers: Sequence[WorkerFacts]) -> ShownQueue:
    taking = sum(each.takes(counts.name) for each in workers)
    return ShownQueue(counts=counts, workers=taking, blocked=_blocked(counts, taking))


def _blocked(counts: QueueCounts, workers: int) -> str:
    settings = counts.settings
    if not counts.waiting:
        return ""
    if settings.paused:
        return "the queue is paused"
    if not workers and counts.name != BATCH:
        return "no connected worker takes its jobs"
    if settings.max_running and counts.running >= settings.max_running:
        return f"{counts.running} jobs run, which is its max_running"
    return ""

"""What waits is bounded, and what is counted on hot paths adds up."""

import pytest

from mlxmesh_shared.telemetry.metrics import BucketCounts
from mlxmesh_shared.telemetry.sink import BoundedQueue


def test_a_full_queue_drops_what_comes_and_counts_it() -> None:
    queue: BoundedQueue[int] = BoundedQueue(3)
    for number in range(5):
        queue.put(number)
    assert (len(queue), queue.dropped) == (3, 2)
    assert queue.pop(2) == [0, 1]
    queue.put(5)
    assert queue.pop(10) == [2, 5]
    assert (queue.pop(1), queue.dropped) == ([], 2)


def test_buckets_hold_values_up_to_their_bound() -> None:
    counts = BucketCounts((1, 2.5))
    for value in (0.5, 1, 2, 2.5, 3):
        counts.record(value)
    assert counts.counts == [2, 2, 1]
    assert counts.total == pytest.approx(9)
    assert (counts.minimum, counts.maximum) == (0.5, 3)


def test_a_reading_does_not_change_with_what_comes_after() -> None:
    counts = BucketCounts((1,))
    before = counts.counts
    counts.record(1)
    assert (before, counts.counts) == ([0, 0], [1, 0])

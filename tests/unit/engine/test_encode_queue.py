"""Which inputs are computed together, and in which order calls have their turns."""

import itertools
import random

import numpy as np
import pytest

from mlxmesh_engine.encoder.inputs import EncodeCall, TokenInput
from mlxmesh_engine.encoder.queue import BatchSize, EncodeQueue


def call(*lengths: int, caller: str = "", background: bool = False) -> EncodeCall:
    inputs = tuple(TokenInput(np.zeros(length, np.int32)) for length in lengths)
    return EncodeCall(inputs, caller=caller, background=background)


def queue_of(*calls: EncodeCall) -> EncodeQueue:
    queue = EncodeQueue()
    for each in calls:
        queue.add(each)
    return queue


def lengths_of(queue: EncodeQueue, max_tokens: int) -> list[list[int]]:
    """The batches until the queue is empty."""
    batches = []
    while batch := queue.pop(max_tokens):
        batches.append([place.length for place in batch])
    assert not queue
    return batches


def test_inputs_of_similar_length_are_computed_together():
    batches = lengths_of(queue_of(call(10, 400, 12, 390, 11, 90)), 4096)
    assert sorted(map(sorted, batches)) == [[10, 11, 12], [90], [390, 400]]


def test_every_input_is_computed_once_and_no_batch_exceeds_its_tokens():
    rng = random.Random(3)
    calls = [
        call(*(rng.randint(1, 600) for _ in range(rng.randint(1, 90))), caller=str(i % 4))
        for i in range(20)
    ]
    queue, seen = queue_of(*calls), set()
    while batch := queue.pop(1024):
        lengths = [place.length for place in batch]
        assert len(batch) == 1 or max(lengths) * len(batch) <= 1024
        assert min(lengths) >= 0.75 * max(lengths) or max(lengths) - min(lengths) <= 16
        for place in batch:
            assert (id(place.call), place.index) not in seen
            seen.add((id(place.call), place.index))
    assert len(seen) == sum(len(each.inputs) for each in calls)


def test_an_input_longer_than_a_batch_is_computed_alone():
    assert lengths_of(queue_of(call(5000, 10)), 1024) == [[5000], [10]]


def test_short_inputs_of_others_share_a_batch():
    one, other = call(8, 9, caller="a"), call(10, caller="b")
    queue = queue_of(one, other)
    assert {id(place.call) for place in queue.pop(1024)} == {id(one), id(other)}


@pytest.mark.parametrize("caller", ["a", "b"], ids=["same caller", "another caller"])
def test_a_call_with_thousands_of_inputs_delays_others_by_a_few_batches(caller):
    queue = queue_of(call(*itertools.repeat(100, 2048), caller="a"))
    for _ in range(5):
        queue.pop(1024)
    small = call(100, caller=caller)
    queue.add(small)
    ahead = itertools.takewhile(
        lambda batch: all(place.call is not small for place in batch),
        (queue.pop(1024) for _ in range(1000)),
    )
    assert sum(1 for _ in ahead) < 10


def test_callers_have_equal_shares_of_tokens():
    many = [call(*[64] * 500, caller="many") for _ in range(8)]
    one = call(*[64] * 500, caller="one")
    queue = queue_of(*many, one)
    tokens = {"many": 0, "one": 0}
    for _ in range(40):
        for place in queue.pop(1024):
            tokens[place.call.caller] += place.length
    assert 0.75 < tokens["one"] / tokens["many"] < 1.34


def test_background_inputs_run_only_when_there_are_no_others():
    background, foreground = call(10, 10, background=True), call(400, 10)
    queue = queue_of(background, foreground)
    order = [[place.call.background for place in queue.pop(512)] for _ in range(3)]
    assert order == [[False], [False], [True, True]]


def test_ended_calls_leave():
    ended, going = call(*[10] * 100), call(10)
    queue = queue_of(ended, going)
    queue.pop(64)
    ended.ended = True
    queue.drop_ended()
    remaining = []
    while batch := queue.pop(64):
        remaining += [place.call for place in batch]
    assert ended not in remaining


def test_a_batch_that_failed_is_retried_one_by_one():
    queue = queue_of(call(10, 11, 12), call(13))
    failed = queue.pop(1024)
    assert len(failed) == 4
    queue.retry_alone(failed)
    retried = [queue.pop(1024) for _ in failed]
    assert [len(batch) for batch in retried] == [1, 1, 1, 1]
    assert {place for batch in retried for place in batch} == set(failed)
    assert not queue


def test_the_size_of_batches_follows_the_speed():
    size = BatchSize(step_s=0.2, min_tokens=256, max_tokens=16_384)
    assert size.tokens == 1024
    for _ in range(50):
        size.record(size.tokens, size.tokens / 50_000)
    assert size.tokens == pytest.approx(10_000, rel=0.1)
    for _ in range(50):
        size.record(size.tokens, size.tokens / 100)
    assert size.tokens == 256
    for _ in range(50):
        size.record(size.tokens, 1e-9)
    assert size.tokens == 16_384


def test_small_batches_say_nothing_about_the_speed_of_large_ones():
    size = BatchSize()
    size.record(10, 1.0)
    size.record(0, 0.0)
    assert size.tokens == 1024

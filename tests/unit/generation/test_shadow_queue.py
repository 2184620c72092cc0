"""Sampled requests that wait, in bounded memory."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import GenerationRequest, PromptText
from mlxmesh_generation.domain.routing import Shadow
from mlxmesh_generation.shadowing.pair import Answer
from mlxmesh_generation.shadowing.queue import Sampled, SampleQueue
from mlxmesh_generation.shadowing.repetition import repeated_request
from mlxmesh_shared.reference import ModelReference

VERSION = ModelVersion("pocket", 1, "d", 100, 100, 1)


def sampled(*, to_version: int = 2, message_bytes: int = 10, expires_s: float = 9) -> Sampled:
    request = GenerationRequest(
        "mine",
        ModelReference.parse("pocket"),
        PromptText("x"),
        priority=50,
        n=4,
        session_id="session",
        labels=(("user", "ada"),),
        caller="key:1",
        owner="ada",
        message_bytes=message_bytes,
        digest=b"d",
        detached=True,
        kept=b"kept",
    )
    return Sampled(
        shadow=Shadow("s-1", 0, to_version, 100),
        request=request,
        version=VERSION,
        seed=7,
        answer=Answer(array("I", [1, 2])),
        text_of=str,
        expires_s=expires_s,
    )


def test_the_first_that_is_accepted_is_taken() -> None:
    queue = SampleQueue(10**6)
    for version in (2, 3, 3):
        assert queue.put(sampled(to_version=version))
    taken = queue.take(lambda one: one.shadow.to_version == 3)
    assert taken is not None
    assert len(queue) == 2
    assert queue.take(lambda one: False) is None


def test_what_was_taken_counts_until_it_is_released() -> None:
    one = sampled()
    queue = SampleQueue(one.size_bytes)
    assert queue.put(one)
    taken = queue.take(lambda _: True)
    assert taken is one
    assert not queue.put(sampled())
    queue.release(one)
    assert queue.put(sampled())


def test_what_had_to_make_way_is_the_next_one() -> None:
    queue = SampleQueue(10**6)
    first = sampled()
    for one in (first, sampled()):
        queue.put(one)
    assert queue.take(lambda _: True) is first
    before = queue.held_bytes
    queue.put_back(first)
    assert queue.held_bytes == before
    assert queue.take(lambda _: True) is first


def test_what_is_no_longer_wanted_frees_its_memory() -> None:
    queue = SampleQueue(10**6)
    for version in (2, 3, 2):
        queue.put(sampled(to_version=version))
    queue.discard(lambda one: one.shadow.to_version == 2)
    assert len(queue) == 1
    assert queue.held_bytes == sampled(to_version=3).size_bytes


def test_the_number_is_bounded_too() -> None:
    queue = SampleQueue(10**9, max_waiting=2)
    assert [queue.put(sampled()) for _ in range(3)] == [True, True, False]


def test_the_oldest_expire() -> None:
    queue = SampleQueue(10**6)
    for expires_s in (1, 2, 3):
        queue.put(sampled(expires_s=expires_s))
    assert [one.expires_s for one in queue.take_expired(2)] == [1, 2]
    assert queue.held_bytes == sampled().size_bytes


@given(st.lists(st.tuples(st.integers(0, 5000), st.booleans()), max_size=60))
def test_the_held_bytes_stay_within_the_limit_and_return_to_0(
    steps: list[tuple[int, bool]],
) -> None:
    queue, taken = SampleQueue(20_000), list[Sampled]()
    for message_bytes, takes in steps:
        queue.put(sampled(message_bytes=message_bytes))
        if takes and (one := queue.take(lambda _: True)) is not None:
            taken.append(one)
        assert 0 <= queue.held_bytes <= 20_000
    for one in taken:
        queue.release(one)
    queue.take_expired(100)
    assert queue.held_bytes == 0


def test_a_repetition_belongs_to_nobody_and_has_the_primarys_seed() -> None:
    repeated = repeated_request(sampled())
    assert repeated.model == ModelReference("pocket", 2)
    assert repeated.sampling.seed == 7
    assert (repeated.priority, repeated.n, repeated.caller) == (-100, 1, "mlxmesh:shadow")
    assert (repeated.owner, repeated.session_id, repeated.labels) == ("", "", ())
    assert (repeated.digest, repeated.detached, repeated.kept) == (None, False, b"")
    assert repeated.request_id == "s-1:mine"

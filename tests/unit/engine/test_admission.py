import pytest

from mlxmesh_engine.scheduling.capacity import Admission
from mlxmesh_engine.scheduling.request import SequenceRequest
from mlxmesh_shared.errors import EngineDraining, QueueFull


def request(
    number: int = 1, *, tokens: int = 10, caller: str = "", background: bool = False
) -> SequenceRequest:
    return SequenceRequest((1, number), (1,), tokens - 1, caller=caller, background=background)


def test_admits_as_many_as_may_run_and_wait() -> None:
    subject = Admission(max_running=2, max_waiting=1)
    for _ in range(3):
        subject.acquire(request(), 0.0)
    with pytest.raises(QueueFull) as caught:
        subject.acquire(request(), 0.0)
    assert caught.value.retry_delay_s
    assert subject.admitted == 3
    subject.release(request(), 10.0)
    subject.acquire(request(), 10.0)


def test_the_queue_is_as_long_in_tokens_as_in_sequences() -> None:
    subject = Admission(max_running=2, max_waiting=4)
    subject.set_kv_capacity(100)
    subject.acquire(request(tokens=100), 0.0)
    subject.acquire(request(tokens=200), 0.0)
    with pytest.raises(QueueFull) as caught:
        subject.acquire(request(tokens=1), 0.0)
    assert caught.value.retry_delay_s
    assert subject.admitted == 2
    subject.release(request(tokens=100), 1.0)
    subject.acquire(request(tokens=100), 10.0)


def test_without_a_queue_no_more_is_promised_than_there_is() -> None:
    subject = Admission(max_running=4, max_waiting=0)
    subject.set_kv_capacity(100)
    subject.acquire(request(tokens=60), 0.0)
    with pytest.raises(QueueFull):
        subject.acquire(request(tokens=41), 0.0)
    subject.acquire(request(tokens=40), 10.0)


def test_a_free_slot_goes_to_the_caller_with_fewer_sequences() -> None:
    subject = Admission(max_running=1, max_waiting=1)
    for _ in range(2):
        subject.acquire(request(caller="a"), 0.0)
    with pytest.raises(QueueFull) as caught:
        subject.acquire(request(caller="b"), 1.0)
    subject.release(request(caller="a"), 2.0)
    with pytest.raises(QueueFull):
        subject.acquire(request(caller="a"), 2.0)
    subject.acquire(request(caller="b"), 1.0 + (caught.value.retry_delay_s or 0))


def test_background_sequences_take_no_place_of_others() -> None:
    subject = Admission(max_running=1, max_waiting=1)
    subject.set_kv_capacity(20)
    for _ in range(2):
        subject.acquire(request(tokens=20, background=True), 0.0)
    with pytest.raises(QueueFull) as caught:
        subject.acquire(request(background=True), 0.0)
    assert caught.value.retry_delay_s
    for _ in range(2):
        subject.acquire(request(tokens=20), 0.0)
    assert subject.admitted == 4
    subject.release(request(tokens=20, background=True), 1.0)
    assert subject.admitted == 3


def test_draining_refuses_new_sequences_and_keeps_admitted_ones() -> None:
    subject = Admission(max_running=1, max_waiting=0)
    subject.acquire(request(), 0.0)
    subject.set_draining()
    with pytest.raises(EngineDraining):
        subject.acquire(request(), 0.0)
    assert subject.admitted == 1

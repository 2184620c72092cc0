import pytest

from mlxmesh_engine.admission import Admission
from mlxmesh_shared.errors import EngineDraining, QueueFull


def test_takes_as_many_as_may_run_and_wait() -> None:
    subject = Admission(max_running=2, max_waiting=1)
    for _ in range(3):
        subject.take()
    with pytest.raises(QueueFull) as caught:
        subject.take()
    assert caught.value.retry_delay_s == 1.0
    assert subject.held == 3
    subject.release(10.0)
    subject.take()


def test_the_retry_delay_is_the_time_between_ends() -> None:
    subject = Admission(max_running=1, max_waiting=0)
    for end_s in (100.0, 104.0, 108.0):
        subject.take()
        subject.release(end_s)
    subject.take()
    with pytest.raises(QueueFull) as caught:
        subject.take()
    assert caught.value.retry_delay_s == pytest.approx(4.0)


@pytest.mark.parametrize(("gap_s", "delay_s"), [(0.0001, 0.05), (900.0, 30.0)])
def test_the_retry_delay_stays_reasonable(gap_s: float, delay_s: float) -> None:
    subject = Admission(max_running=1, max_waiting=0)
    for index in range(2):
        subject.take()
        subject.release(index * gap_s)
    subject.take()
    with pytest.raises(QueueFull) as caught:
        subject.take()
    assert caught.value.retry_delay_s == delay_s


def test_draining_refuses_and_keeps_what_it_holds() -> None:
    subject = Admission(max_running=1, max_waiting=0)
    subject.take()
    subject.set_draining()
    with pytest.raises(EngineDraining):
        subject.take()
    assert subject.held == 1

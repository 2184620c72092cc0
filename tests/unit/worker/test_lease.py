"""The lease runs from when a confirmed message was sent."""

from mlxmesh_worker.lease import Lease


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_there_is_no_lease_before_the_first_welcome() -> None:
    clock = Clock()
    lease = Lease(clock)
    lease.on_stream()
    lease.on_sent(1)
    clock.now += 1000
    assert lease.left_s is None
    assert not lease.expired


def test_it_runs_from_the_hello_and_is_extended_by_confirmations() -> None:
    clock = Clock()
    lease = Lease(clock)
    lease.on_sent(1)
    clock.now += 2
    lease.on_welcome(10)
    assert lease.left_s == 8
    lease.on_sent(2)
    clock.now += 3
    lease.on_sent(3)
    lease.on_confirmed(2)
    assert lease.left_s == 7
    lease.on_confirmed(3)
    assert lease.left_s == 10
    clock.now += 10
    assert lease.expired


def test_another_stream_extends_nothing_by_itself() -> None:
    clock = Clock()
    lease = Lease(clock)
    lease.on_sent(1)
    lease.on_welcome(10)
    clock.now += 6
    lease.on_stream()
    lease.on_sent(1)
    lease.on_welcome(10)
    assert lease.left_s == 4
    lease.on_confirmed(1)
    assert lease.left_s == 10


def test_a_clock_that_went_on_while_the_process_stood_still_ends_it() -> None:
    clock = Clock()
    lease = Lease(clock)
    lease.on_sent(1)
    lease.on_welcome(10)
    lease.on_sent(2)
    clock.now += 3600
    # What was confirmed before is read only now.
    lease.on_confirmed(2)
    assert lease.expired

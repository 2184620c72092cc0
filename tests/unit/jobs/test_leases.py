"""Which workers are lost, by one process's monotonic clock."""

from __future__ import annotations

from mlxmesh_jobs.domain.jobs import StoredSession
from mlxmesh_jobs.workers.leases import Leases

LEASE_S, RECONNECT_S = 10.0, 2.0
A, B = 1, 2


def stored(key: int, beat: int) -> StoredSession:
    return StoredSession(key=key, worker_id=f"w{key}", session="s", beat=beat, running=0)


def leases() -> Leases:
    made = Leases(lease_s=LEASE_S, reconnect_s=RECONNECT_S)
    made.list(["w1", "w2"])
    return made


def run(made: Leases, beats: dict[int, int], *, since_s: int, until_s: int) -> list[int]:
    """Ticks each second while the beats stay; the keys that are lost by then."""
    lost: list[int] = []
    for now_s in range(since_s, until_s + 1):
        made.tick(now_s)
        made.observe([stored(key, beat) for key, beat in beats.items()], now_s)
        lost += [each.key for each in made.lost(now_s) if each.key not in lost]
    return lost


def test_a_worker_with_a_stream_is_lost_when_it_is_silent_for_the_lease() -> None:
    made = leases()
    made.connected(A, "w1", 0)
    assert made.beating() == [A]
    assert run(made, {A: 1}, since_s=0, until_s=9) == []
    made.heard(A, 9)
    assert run(made, {A: 2}, since_s=10, until_s=18) == []
    assert run(made, {A: 2}, since_s=19, until_s=19) == [A]
    [lost] = made.lost(19)
    assert lost.beat is None
    assert "silent for 10 s" in lost.reason
    made.forget(A)
    assert made.beating() == []
    assert made.lost(30) == []


def test_without_a_stream_and_a_listing_it_is_lost_at_once() -> None:
    made = leases()
    made.connected(A, "w1", 0)
    run(made, {A: 1}, since_s=0, until_s=1)
    made.list(["w2"])
    assert made.lost(1) == []
    made.disconnected(A, 1)
    [lost] = made.lost(1)
    assert (lost.key, lost.worker_id, lost.beat) == (A, "w1", 1)
    assert made.beating() == []


def test_a_listed_one_has_time_to_reconnect() -> None:
    made = leases()
    made.connected(A, "w1", 0)
    run(made, {A: 1}, since_s=0, until_s=1)
    made.disconnected(A, 1)
    assert run(made, {A: 1}, since_s=2, until_s=2) == []
    assert run(made, {A: 1}, since_s=3, until_s=3) == [A]
    made.connected(A, "w1", 3)
    assert made.lost(3) == []


def test_before_the_registry_was_read_nobody_is_unlisted() -> None:
    made = Leases(lease_s=LEASE_S, reconnect_s=RECONNECT_S)
    made.connected(A, "w1", 0)
    made.observe([stored(A, 1)], 0)
    made.disconnected(A, 0)
    assert made.lost(0) == []
    assert [each.key for each in made.lost(2)] == [A]


def test_one_that_went_on_elsewhere_is_the_others_to_judge() -> None:
    made = leases()
    made.connected(A, "w1", 0)
    run(made, {A: 1}, since_s=0, until_s=1)
    made.disconnected(A, 1)
    made.observe([stored(A, 2)], 1.5)
    assert run(made, {A: 2}, since_s=2, until_s=11) == []
    [lost] = made.lost(11.5)
    assert (lost.key, lost.beat) == (A, 2)
    assert "no heartbeat for 10 s" in lost.reason


def test_the_last_heartbeat_of_this_process_is_nobody_elses() -> None:
    made = leases()
    made.connected(A, "w1", 0)
    run(made, {A: 1}, since_s=0, until_s=1)
    made.disconnected(A, 1)
    made.beaten([A])  # it was on its way when the stream ended
    made.observe([stored(A, 2)], 1.1)
    assert [(each.key, each.beat) for each in made.lost(3.1)] == [(A, 2)]


def test_sessions_of_a_dead_jobs_service_are_observed_by_their_beat() -> None:
    made = leases()
    assert run(made, {A: 5, B: 7}, since_s=0, until_s=3) == []
    assert run(made, {A: 6, B: 7}, since_s=4, until_s=9) == []
    assert run(made, {A: 6, B: 7}, since_s=10, until_s=13) == [B]
    assert run(made, {A: 6}, since_s=14, until_s=14) == [A]


def test_unlisted_sessions_of_a_dead_jobs_service_are_found_sooner() -> None:
    made = leases()
    run(made, {A: 5}, since_s=0, until_s=0)
    made.list([])
    assert run(made, {A: 5}, since_s=1, until_s=2) == []
    assert run(made, {A: 5}, since_s=3, until_s=3) == [A]
    assert "does not list it and it has no heartbeat" in made.lost(3)[0].reason


def test_an_unlisted_session_that_beats_is_not_lost() -> None:
    made = leases()
    made.list([])
    for now_s in range(30):
        assert run(made, {A: now_s}, since_s=now_s, until_s=now_s) == []


def test_a_pause_of_this_process_is_nobodys_silence() -> None:
    made = leases()
    made.connected(A, "w1", 0)
    run(made, {A: 1, B: 1}, since_s=0, until_s=1)
    made.tick(500)
    made.observe([stored(A, 1), stored(B, 1)], 500)
    assert made.lost(500) == []
    assert run(made, {A: 1, B: 1}, since_s=501, until_s=507) == []
    assert sorted(run(made, {A: 1, B: 1}, since_s=508, until_s=511)) == [A, B]


def test_sessions_that_were_ended_are_forgotten() -> None:
    made = leases()
    run(made, {A: 1}, since_s=0, until_s=1)
    made.observe([], 2)
    assert made.lost(100) == []


def test_short_times_are_looked_at_more_often() -> None:
    assert Leases(lease_s=300, reconnect_s=60).tick_s == 1
    assert Leases(lease_s=1, reconnect_s=2).tick_s == 0.25
    assert Leases(lease_s=10, reconnect_s=0.1).tick_s == 0.05

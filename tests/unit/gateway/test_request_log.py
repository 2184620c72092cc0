"""The log of recent requests: what it keeps, for how long, and what a change is."""

import asyncio

import pytest

from mlxmesh_gateway.forwarding.request_log import RequestEntry, RequestLog
from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_shared.errors import EngineLost

MS = 1_000_000


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def log_of(max_requests: int, clock: Clock | None = None) -> RequestLog:
    return RequestLog(max_requests, clock=clock or Clock(), time_ns=lambda: 7)


def run_one(log: RequestLog, model: str = "pocket") -> None:
    with log.recorded(Used(), owner="user:ada#", protocol="grpc", method="/x/Y", model=model):
        pass


def models(entries: list[RequestEntry]) -> list[str]:
    return [entry.model for entry in entries]


def test_a_request_runs_until_its_body_ends() -> None:
    clock, used = Clock(), Used()
    log = log_of(10, clock)
    with log.recorded(used, owner="user:ada#", protocol="openai", method="/x/Y", model="pocket"):
        [entry] = log.changed_after(0)
        assert not entry.has_ended
        clock.now_ns = used.first_output_ns = 20 * MS
        assert entry.first_output_ms() == 20
        assert entry.duration_ms(clock()) == 20
        clock.now_ns = 50 * MS
    [ended] = log.changed_after(0)
    assert ended is entry
    assert (ended.has_ended, ended.duration_ms(99 * MS), ended.failure) == (True, 50, None)


def test_running_requests_are_always_news_and_ended_ones_after_a_change() -> None:
    log = log_of(10)
    run_one(log, "first")
    seen = log.change
    with log.recorded(Used(), owner="", protocol="grpc", method="/x/Y", model="running"):
        run_one(log, "second")
        assert models(log.changed_after(seen)) == ["running", "second"]
        assert models(log.changed_after(log.change)) == ["running"]
    assert models(log.changed_after(0)) == ["running", "second", "first"]


def test_only_the_last_requests_that_ended_are_kept() -> None:
    log = log_of(2)
    for number in range(5):
        run_one(log, f"model-{number}")
    assert models(log.changed_after(0)) == ["model-4", "model-3"]


def test_a_failure_is_kept_without_the_exception() -> None:
    log = log_of(10)
    with (
        pytest.raises(EngineLost),
        log.recorded(Used(), owner="", protocol="grpc", method="/x/Y", model="pocket"),
    ):
        raise EngineLost("x" * 10_000)
    [entry] = log.changed_after(0)
    assert entry.failure is not None
    assert (entry.failure.reason, len(entry.failure.message)) == ("ENGINE_LOST", 500)


def test_a_client_that_leaves_is_a_cancellation() -> None:
    log = log_of(10)
    with (
        pytest.raises(asyncio.CancelledError),
        log.recorded(Used(), owner="", protocol="grpc", method="/x/Y", model="pocket"),
    ):
        raise asyncio.CancelledError
    [entry] = log.changed_after(0)
    assert entry.failure is not None
    assert entry.failure.reason == "CANCELLED"

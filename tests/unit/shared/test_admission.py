"""Admission: a limit of calls that any edge can use."""

import pytest

from mlxmesh_shared.errors import TooManyRequests
from mlxmesh_shared.resilience.admission import CallAdmission
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter


def test_a_call_beyond_the_limit_is_refused_with_a_time_to_retry() -> None:
    refused: list[int] = []
    admission = CallAdmission(ConcurrencyLimiter(1), on_refused=refused.append, clock=lambda: 0.0)
    admission.admit("a")
    with pytest.raises(TooManyRequests) as raised:
        admission.admit("b")
    assert raised.value.retry_delay_s is not None
    assert refused == [1]


def test_a_released_call_makes_room() -> None:
    admission = CallAdmission(ConcurrencyLimiter(1), clock=lambda: 0.0)
    admission.admit("a")
    admission.release("a")
    admission.admit("a")


def test_the_limit_can_change_while_calls_run() -> None:
    admission = CallAdmission(ConcurrencyLimiter(1), clock=lambda: 0.0)
    admission.admit("a")
    admission.resize(2, per_caller=None)
    admission.admit("a")

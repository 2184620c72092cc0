"""Tokens of fast steps are delayed and sent together; urgent updates are never delayed."""

import pytest

from mlxmesh_engine.scheduling.request import FinishReason, StepOutputs, Update
from mlxmesh_engine.service.outbox import OutputInterval


def token(number: int, sequence_id: int = 1) -> Update:
    return Update(sequence_id, token_ids=(number,), deferrable=True)


def test_tokens_of_fast_steps_are_sent_together_and_in_order() -> None:
    interval = OutputInterval(0.005)
    released = [interval.release({1: [token(n)]}, 1.0 + 0.002 * n) for n in range(5)]
    assert released == [{1: [token(0)]}, {}, {}, {1: [token(1), token(2), token(3)]}, {}]


def test_each_token_of_a_slow_step_is_sent_at_once() -> None:
    interval = OutputInterval(0.005)
    for n in range(3):
        assert interval.release({1: [token(n)]}, 1.0 + 0.006 * n) == {1: [token(n)]}


@pytest.mark.parametrize(
    "outputs",
    [
        Update(2, accepted=True),
        Update(2, prefilled_tokens=5),
        Update(2, token_ids=(7,)),
        Update(2, finish_reason=FinishReason.STOP),
    ],
)
def test_an_urgent_update_releases_everything(outputs: Update) -> None:
    interval = OutputInterval(0.005)
    interval.release({1: [token(1)]}, 1.0)
    assert interval.release({1: [token(2)]}, 1.001) == {}
    assert interval.release({1: [token(3), outputs]}, 1.002) == {1: [token(2), token(3), outputs]}


def test_streams_are_separate() -> None:
    interval = OutputInterval(0.005)
    interval.release({1: [token(1)]}, 1.0)
    interval.release({1: [token(2)], 2: [token(3)]}, 1.001)
    both: StepOutputs = {1: [token(2)], 2: [token(3), token(4)]}
    assert interval.release({2: [token(4)]}, 1.1) == both


def test_without_an_interval_nothing_is_delayed() -> None:
    interval = OutputInterval(0.0)
    assert interval.release({1: [token(1)]}, 1.0) == {1: [token(1)]}
    assert interval.release({1: [token(2)]}, 1.0) == {1: [token(2)]}
    assert interval.release({}, 1.0) == {}

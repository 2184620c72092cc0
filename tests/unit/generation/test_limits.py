"""How much one generation process holds."""

from contextlib import ExitStack

import pytest

from mlxmesh_generation.streams.limits import GenerationLimits
from mlxmesh_shared.errors import MessageTooLarge, TooManyRequests


def test_only_so_many_are_held_at_one_time() -> None:
    subject = GenerationLimits(max_generations=2, max_held_bytes=1000)
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(subject.holding("a", 10))
        with pytest.raises(TooManyRequests) as caught, subject.holding("a", 10):
            pass
        assert caught.value.retry_delay_s
    with subject.holding("a", 10):
        pass


def test_only_so_many_bytes_are_held_at_one_time() -> None:
    subject = GenerationLimits(max_generations=100, max_held_bytes=1000)
    with subject.holding("a", 600):
        with pytest.raises(TooManyRequests) as caught, subject.holding("a", 401):
            pass
        assert caught.value.retry_delay_s
        with subject.holding("a", 400):
            pass
    with subject.holding("a", 1000):
        pass


def test_what_can_never_be_held_is_not_worth_a_retry() -> None:
    subject = GenerationLimits(max_generations=100, max_held_bytes=1000)
    with pytest.raises(MessageTooLarge) as caught, subject.holding("a", 1001):
        pass
    assert not caught.value.retryable


def test_flex_requests_take_no_place_of_others() -> None:
    subject = GenerationLimits(max_generations=1, max_held_bytes=10)
    with subject.holding("a", 10, flex=True):
        with pytest.raises(TooManyRequests), subject.holding("a", 1, flex=True):
            pass
        with subject.holding("a", 10):
            pass


def test_a_failure_gives_everything_back() -> None:
    subject = GenerationLimits(max_generations=1, max_held_bytes=10)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), subject.holding("a", 10):
            raise ZeroDivisionError

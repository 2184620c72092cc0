"""How much one generation process holds."""

from contextlib import ExitStack

import pytest

from mlxmesh_generation.limits import GenerationLimits
from mlxmesh_generation.request import GenerationRequest, PromptText
from mlxmesh_shared.errors import MessageTooLarge, TooManyRequests
from mlxmesh_shared.reference import ModelReference


def request(message_bytes: int = 10) -> GenerationRequest:
    model = ModelReference.parse("pocket")
    return GenerationRequest("r", model, PromptText("x"), message_bytes=message_bytes)


def test_only_so_many_are_held_at_one_time() -> None:
    subject = GenerationLimits(max_generations=2, max_held_bytes=1000)
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(subject.holding(request()))
        with pytest.raises(TooManyRequests) as caught, subject.holding(request()):
            pass
        assert caught.value.retry_delay_s
    with subject.holding(request()):
        pass


def test_only_so_many_bytes_are_held_at_one_time() -> None:
    subject = GenerationLimits(max_generations=100, max_held_bytes=1000)
    with subject.holding(request(600)):
        with pytest.raises(TooManyRequests) as caught, subject.holding(request(401)):
            pass
        assert caught.value.retry_delay_s
        with subject.holding(request(400)):
            pass
    with subject.holding(request(1000)):
        pass


def test_what_can_never_be_held_is_not_worth_a_retry() -> None:
    subject = GenerationLimits(max_generations=100, max_held_bytes=1000)
    with pytest.raises(MessageTooLarge) as caught, subject.holding(request(1001)):
        pass
    assert not caught.value.retryable


def test_a_failure_gives_everything_back() -> None:
    subject = GenerationLimits(max_generations=1, max_held_bytes=10)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), subject.holding(request()):
            raise ZeroDivisionError

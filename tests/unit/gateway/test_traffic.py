"""What passes through a gateway, counted over a minute of a clock that the test holds."""

import asyncio

import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.telemetry.v1.traffic_pb2 import Traffic
from mlxmesh_gateway.forwarding.traffic import GatewayTraffic, merged, total
from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_shared.errors import Cancelled, ServiceUnavailable

MS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns

    def wait_ms(self, duration_ms: float) -> None:
        self.now_ns += round(duration_ms * MS)


class Stand:
    def __init__(self) -> None:
        self.clock = Clock()
        self.traffic = GatewayTraffic(self.clock)

    def stream(self, model: str = "pocket", *, first_ms: float = 100, each_ms: float = 10) -> None:
        """One that goes well: three deltas of a token."""
        with self.traffic.generation() as observed:
            observed.message(started(model))
            self.clock.wait_ms(first_ms)
            observed.message(delta())
            for message in (delta(), delta(), finished(3)):
                self.clock.wait_ms(each_ms)
                observed.message(message)

    def total(self) -> Traffic:
        return total(self.traffic.counts())


def started(model: str = "pocket") -> bytes:
    response = g.GenerateResponse(sequence=1, started=g.Started(model=model))
    return response.SerializeToString()


def delta() -> bytes:
    return g.GenerateResponse(sequence=2, delta=g.Delta(text="a")).SerializeToString()


def finished(tokens: int) -> bytes:
    usage = g.Usage(completion_tokens=tokens)
    return g.GenerateResponse(
        sequence=3, finished=g.Finished(usage=usage, total_usage=usage)
    ).SerializeToString()


def test_a_stream_is_timed_to_its_first_output_and_from_message_to_message() -> None:
    stand = Stand()
    stand.stream()
    seen = stand.total()
    assert (seen.requests, seen.errors, seen.running, seen.completion_tokens) == (1, 0, 0, 3)
    assert seen.time_to_first_token.count == 1
    assert seen.time_to_first_token.p50_ms == pytest.approx(100, rel=0.04)
    assert seen.between_messages.count == 3
    assert seen.between_messages.p99_ms == pytest.approx(10, rel=0.04)


def test_what_was_said_while_reading_the_prompt_is_no_output() -> None:
    stand = Stand()
    reading = g.GenerateResponse(sequence=2, prefill_progress=g.PrefillProgress())
    with stand.traffic.generation() as observed:
        for message in (started(), reading.SerializeToString(), delta(), finished(1)):
            stand.clock.wait_ms(50)
            observed.message(message)
    assert stand.total().time_to_first_token.p50_ms == pytest.approx(150, rel=0.04)


def test_what_runs_is_counted_under_its_model_once_that_is_known() -> None:
    stand = Stand()
    with stand.traffic.generation() as observed:
        assert [(one.model, one.running) for one in stand.traffic.counts()] == [("", 1)]
        observed.message(started())
        running = [(one.model, one.running) for one in stand.traffic.counts()]
        assert running == [("", 0), ("pocket", 1)]


@pytest.mark.parametrize(
    ("error", "errors"),
    [
        (ServiceUnavailable("no"), 1),
        (ValueError(), 1),
        (Cancelled("by its client"), 0),
        (asyncio.CancelledError(), 0),
    ],
)
def test_an_error_is_counted_and_a_client_that_left_is_none(
    error: BaseException, errors: int
) -> None:
    stand = Stand()
    with pytest.raises(type(error)), stand.traffic.generation():
        raise error
    seen = stand.total()
    assert (seen.requests, seen.errors, seen.running) == (1, errors, 0)


def test_an_answer_in_one_piece_counts_its_tokens() -> None:
    stand = Stand()
    usage = g.Usage(completion_tokens=7)
    answer = g.CompleteResponse(
        started=g.Started(model="pocket"), finished=g.Finished(usage=usage, total_usage=usage)
    )
    with stand.traffic.generation() as observed:
        observed.answer(answer.SerializeToString())
    [unknown, pocket] = stand.traffic.counts()
    assert (pocket.model, pocket.requests, pocket.completion_tokens) == ("pocket", 1, 7)
    assert unknown.requests == 0


def test_tokens_of_all_outputs_are_counted_at_the_last_end() -> None:
    stand = Stand()
    used = Used()
    ends = [
        g.Finished(index=1, usage=g.Usage(completion_tokens=3)),
        g.Finished(
            usage=g.Usage(completion_tokens=4, cached_tokens=9),
            total_usage=g.Usage(prompt_tokens=5, cached_tokens=2, completion_tokens=7),
            timings=g.Timings(decode_ms=1),
            device_ms=12.5,
        ),
    ]
    with stand.traffic.generation(used) as observed:
        observed.message(started())
        for end in ends:
            observed.message(g.GenerateResponse(finished=end).SerializeToString())
    assert observed.finished
    assert (used.prompt_tokens, used.cached_tokens, used.completion_tokens) == (5, 2, 7)
    assert used.device_ms == 12.5
    with stand.traffic.generation() as observed:
        observed.message(started())
        observed.message(g.GenerateResponse(finished=ends[0]).SerializeToString())
    assert not observed.finished


def test_a_minute_later_all_is_forgotten() -> None:
    stand = Stand()
    stand.stream()
    stand.clock.wait_ms(50_000)
    stand.stream()
    assert stand.total().requests == 2
    stand.clock.wait_ms(15_000)
    assert stand.total().requests == 1
    stand.clock.wait_ms(60_000)
    assert stand.total() == Traffic(
        time_to_first_token=stand.total().time_to_first_token,
        between_messages=stand.total().between_messages,
    )
    assert stand.total().between_messages.count == 0


def test_counts_of_several_gateways_add_up_by_model_and_in_all() -> None:
    one, other = Stand(), Stand()
    for _ in range(3):
        one.stream("a", each_ms=10)
        other.stream("b", each_ms=1000)
    other.stream("a", each_ms=1000)
    every, a, b = merged([*one.traffic.counts(), *other.traffic.counts()])
    assert [(each.model, each.requests) for each in (every, a, b)] == [("", 7), ("a", 4), ("b", 3)]
    assert every.between_messages.p50_ms == pytest.approx(1000, rel=0.04)
    assert a.between_messages.p50_ms == pytest.approx(10, rel=0.04)


def test_where_nothing_passed_there_is_one_empty_line() -> None:
    [every] = merged([])
    assert (every.model, every.requests) == ("", 0)


def test_every_step_of_an_ensemble_is_used() -> None:
    steps = [
        g.EnsembleStep(usage=g.Usage(prompt_tokens=7, completion_tokens=4), device_ms=3),
        g.EnsembleStep(chosen=True, device_ms=2),
    ]
    begun = g.Started(model="small", prompt_tokens=7, steps=steps)
    total_usage = g.Usage(prompt_tokens=14, completion_tokens=9)
    ended = g.Finished(total_usage=total_usage, steps=steps, device_ms=5)
    used = Used()
    with GatewayTraffic(Clock()).generation(used) as observed:
        observed.message(g.GenerateResponse(sequence=1, started=begun).SerializeToString())
        assert used.prompt_tokens == 14
        observed.message(g.GenerateResponse(sequence=2, finished=ended).SerializeToString())
    assert (used.model, used.prompt_tokens, used.completion_tokens) == ("small", 14, 9)
    assert used.device_ms == 5

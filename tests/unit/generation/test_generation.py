"""One generation, fed engine outputs by hand."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mlxmesh.engine.v1.engine_pb2 import Accepted, SequenceTimings
from mlxmesh_generation.domain.request import (
    Delta,
    Event,
    Finished,
    FinishReason,
    PrefillProgress,
    ReceivedOutput,
    Resumed,
    Started,
)
from mlxmesh_generation.streams.stream import MAX_BACKLOG_TOKENS
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_shared.errors import (
    Cancelled,
    ContextTooLong,
    DeadlineExceeded,
    EngineDraining,
    EngineFailed,
    EngineLost,
    InvalidArgument,
    MeshError,
    QueueFull,
)
from mlxmesh_shared.rpc.error_status import to_failure
from tests.unit.generation.running import (
    CANCELLED,
    LENGTH,
    STOP,
    Running,
    end_of,
    placed_again,
    text_of,
)


@pytest.fixture
def tokenizer(byte_level: ModelTokenizer) -> ModelTokenizer:
    return byte_level


async def test_from_acceptance_to_the_end(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer)
    running.accept()
    running.say(prefilled_tokens=2)
    running.say(prefilled_tokens=3)
    token_ids = running.tokens("hello")
    timings = SequenceTimings(queue_ms=1, prefill_ms=2, decode_ms=3)
    running.say(finish_reason=LENGTH, timings=timings)
    started, progress, delta, finished = await running.events()
    assert started == Started("r", "pocket", 1, "engine-1", 3, 2, 42, created_ms=1234)
    assert progress == PrefillProgress(2, 3)
    assert delta == Delta("hello", tuple(token_ids))
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.LENGTH
    assert (finished.prompt_tokens, finished.cached_tokens) == (3, 2)
    assert finished.completion_tokens == len(token_ids)
    assert (finished.timings.prefill_ms, finished.timings.decode_ms) == (2, 3)
    assert finished.timings.queue_ms >= 1


async def test_what_was_cached_by_the_time_of_reading_is_what_counts(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer)
    running.accept()
    running.say(cached_tokens=0, prefilled_tokens=3)
    running.tokens("hello", finish_reason=LENGTH)
    started, *_, finished = await running.events()
    assert isinstance(started, Started)
    assert (started.cached_tokens, end_of([finished]).cached_tokens) == (2, 0)


async def test_an_end_token_is_reported_and_has_no_text(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer)
    running.accept()
    [a] = tokenizer.encode_rendered("a")
    [dot] = tokenizer.encode_rendered(".")
    running.say(token_ids=[a, dot], finish_reason=STOP)
    events = await running.events()
    assert text_of(events) == "a"
    assert end_of(events).stop_token_id == dot
    assert end_of(events).completion_tokens == 2


async def test_a_stop_text_ends_it_and_never_shows(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, stop=("END",))
    running.accept()
    before = running.tokens("one E")
    running.tokens("ND two three")
    assert running.sequence.cancelled
    running.tokens("four")
    running.say(finish_reason=CANCELLED, timings=SequenceTimings(decode_ms=9))
    events = await running.events()
    end = end_of(events)
    assert text_of(events) == "one "
    assert (end.reason, end.stop_text, end.stop_token_id) == (FinishReason.STOP, "END", None)
    assert end.timings.decode_ms == 9
    token_ids = [t for event in events if isinstance(event, Delta) for t in event.token_ids]
    assert end.completion_tokens == len(token_ids)
    assert tokenizer.decode(token_ids).endswith("END")
    assert len(before) < len(token_ids)


async def test_a_stop_text_wins_over_the_length_reached_with_it(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, stop=("END",))
    running.accept()
    running.tokens("one END", finish_reason=LENGTH)
    assert end_of(await running.events()).reason is FinishReason.STOP


async def test_text_held_back_for_a_stop_text_is_shown_at_the_end(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, stop=("END",))
    running.accept()
    running.tokens("one EN", finish_reason=LENGTH)
    assert text_of(await running.events()) == "one EN"


async def test_half_a_character_at_the_end_is_shown_as_the_decode_shows_it(
    tokenizer: ModelTokenizer,
) -> None:
    token_ids = tokenizer.encode_rendered("x🫠")[:-1]
    running = Running(tokenizer)
    running.accept()
    running.say(token_ids=token_ids)
    running.say(finish_reason=LENGTH)
    assert text_of(await running.events()) == tokenizer.decode(token_ids)


async def test_a_complete_answer_survives_the_loss_of_its_engine(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, stop=("END",))
    running.accept()
    running.tokens("one END")
    running.lose(EngineLost("gone"))
    assert end_of(await running.events()).stop_text == "END"


async def test_cancel_ends_it_well(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer)
    running.accept()
    running.tokens("so far")
    running.generation.cancel()
    assert running.sequence.cancelled
    running.say(finish_reason=CANCELLED)
    events = await running.events()
    assert text_of(events) == "so far"
    assert end_of(events).reason is FinishReason.CANCELLED


async def test_a_cancelled_one_shows_what_it_held_back_though_its_engine_is_lost(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, stop=("END",))
    running.accept()
    running.tokens("one EN")
    running.generation.cancel()
    running.lose(EngineLost("gone"))
    events = await running.events()
    assert text_of(events) == "one EN"
    assert end_of(events).reason is FinishReason.CANCELLED


async def test_a_cancelled_one_does_not_start_elsewhere(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, engines=("engine-1", "engine-2"))
    running.generation.cancel()
    running.lose(EngineLost("gone"))
    assert end_of(await running.events()).reason is FinishReason.CANCELLED
    assert len(running.engines.submits) == 1


async def test_one_that_is_cancelled_before_its_start_asks_no_engine(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, cancelled=True)
    first, *events = await running.events()
    assert isinstance(first, Started)
    assert (first.seed, first.engine_id) == (42, "")
    assert end_of(events).reason is FinishReason.CANCELLED
    assert running.engines.submits == []


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), EngineFailed("broken")])
async def test_an_error_comes_after_the_text_so_far(
    tokenizer: ModelTokenizer, error: MeshError
) -> None:
    running = Running(tokenizer, stop=("END",), engines=("engine-1", "engine-2"))
    running.accept()
    running.tokens("so far E")
    running.fail(error)
    seen: list[Event] = []
    with pytest.raises(type(error)):
        await running.read_into(seen)
    assert text_of(seen) == "so far E"
    assert len(running.engines.submits) == 1


@pytest.mark.parametrize("error", [QueueFull("full"), EngineDraining("bye"), EngineLost("gone")])
async def test_one_other_engine_is_tried_when_the_first_would_not_take_it(
    tokenizer: ModelTokenizer, error: MeshError
) -> None:
    running = Running(tokenizer, engines=("engine-1", "engine-2", "engine-3"))
    running.fail(error)
    first, second = running.engines.submits
    assert first == second
    running.accept()
    running.say(finish_reason=LENGTH)
    started = (await running.events())[0]
    assert isinstance(started, Started)
    assert started.engine_id == "engine-2"


async def test_only_one_other_is_tried(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, engines=("engine-1", "engine-2", "engine-3"))
    running.fail(QueueFull("full", retry_delay_s=3))
    running.fail(QueueFull("full", retry_delay_s=5))
    with pytest.raises(QueueFull) as caught:
        await running.events()
    assert caught.value.retry_delay_s == 5


async def test_the_first_refusal_stands_when_there_is_no_other(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer)
    running.fail(QueueFull("full", retry_delay_s=3))
    with pytest.raises(QueueFull) as caught:
        await running.events()
    assert caught.value.retry_delay_s == 3


async def test_a_default_length_shrinks_until_it_fits_the_engine(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer)
    running.fail(ContextTooLong("too long", field="max_tokens"))
    running.fail(ContextTooLong("too long", field="max_tokens"))
    running.accept()
    running.say(finish_reason=LENGTH)
    assert end_of(await running.events()).reason is FinishReason.LENGTH
    assert [submit.max_tokens for submit in running.engines.submits] == [100, 50, 25]


async def test_a_length_that_was_asked_for_does_not_shrink(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, max_tokens=100)
    running.fail(ContextTooLong("too long", field="max_tokens"))
    with pytest.raises(ContextTooLong):
        await running.events()
    assert len(running.engines.submits) == 1


async def test_a_bad_request_is_not_tried_elsewhere(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, engines=("engine-1", "engine-2"))
    running.fail(InvalidArgument("no", field="prompt_token_ids"))
    with pytest.raises(InvalidArgument) as caught:
        await running.events()
    assert caught.value.field == "prompt"
    assert len(running.engines.submits) == 1


async def test_the_engine_gets_a_little_less_time_than_the_caller(
    tokenizer: ModelTokenizer,
) -> None:
    [submit] = Running(tokenizer, timeout_s=10).engines.submits
    assert 0 < submit.timeout_ms < 10_000
    [submit] = Running(tokenizer).engines.submits
    assert not submit.HasField("timeout_ms")


def test_a_deadline_that_has_passed_asks_no_engine(tokenizer: ModelTokenizer) -> None:
    with pytest.raises(DeadlineExceeded):
        Running(tokenizer, timeout_s=0)


async def test_a_reader_too_far_behind_loses_its_generation(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer)
    running.accept()
    running.say(token_ids=[5] * MAX_BACKLOG_TOKENS)
    assert not running.sequence.dropped
    running.say(token_ids=[5])
    assert running.sequence.dropped
    running.say(token_ids=[5])
    seen: list[Event] = []
    with pytest.raises(Cancelled):
        await running.read_into(seen)
    tokens = sum(len(event.token_ids) for event in seen if isinstance(event, Delta))
    assert tokens == MAX_BACKLOG_TOKENS + 1


async def test_output_that_exceeds_the_limit_at_the_end_ends_it_once(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, stop=("END",))
    error = Cancelled("too much unread output")
    running.accept()
    running.tokens("one EN")
    running.abort_at_next_output(error)
    running.fail(EngineFailed("broken"))
    assert running.ended == 1
    with pytest.raises(Cancelled):
        await running.events()


async def test_closing_frees_the_place(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer)
    running.generation.close()
    assert running.sequence.dropped


# After the loss of an engine.


async def test_it_goes_on_elsewhere_with_its_tokens_so_far(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, engines=("engine-1", "engine-2"))
    running.accept()
    token_ids = running.tokens("one two ")
    running.lose(EngineLost("gone"))
    await placed_again(running)
    first, second = running.engines.submits
    assert list(second.generated_token_ids) == token_ids
    second.ClearField("generated_token_ids")
    assert first == second
    assert running.sequence.engine_id == "engine-2"
    running.accept()
    running.say(prefilled_tokens=1)
    running.tokens("three", finish_reason=LENGTH)
    events = await running.events()
    assert [type(event) for event in events] == [Started, Delta, Finished]
    assert text_of(events) == "one two three"
    assert end_of(events).resumptions == 1
    assert end_of(events).completion_tokens > len(token_ids)


async def test_one_that_lost_two_engines_without_a_token_goes_on_isolated(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, engines=("engine-1", "engine-2"))
    for times in (1, 2):
        running.accept()
        running.lose(EngineLost("gone"))
        await placed_again(running, times)
    assert [submit.isolated for submit in running.engines.submits] == [False, False, True]
    running.accept()
    running.tokens("one ")
    running.lose(EngineLost("gone"))
    await placed_again(running, times=3)
    assert not running.engines.submits[-1].isolated


async def test_going_on_is_told_once_the_other_engine_has_taken_it(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, engines=("engine-1", "engine-2"))
    running.accept()
    token_ids = running.tokens("one two ")
    running.lose(EngineLost("gone"))
    await placed_again(running)
    assert running.told == []
    running.accept()
    [(resumed, about)] = running.told
    assert about == resumed.request_id == "r"
    assert (resumed.from_engine, resumed.to_engine) == ("engine-1", "engine-2")
    assert (resumed.model, resumed.model_version, resumed.resumptions) == ("pocket", 1, 1)
    assert resumed.completion_tokens == len(token_ids)


async def test_an_engine_that_refuses_it_on_the_way_is_no_loss(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, engines=("engine-1", "engine-2"))
    running.accept()
    running.lose(EngineLost("gone"))
    await placed_again(running)
    running.say(failure=to_failure(QueueFull("no place")))
    await placed_again(running, times=2)
    running.accept()
    [(resumed, _)] = running.told
    assert (resumed.from_engine, resumed.to_engine) == ("engine-1", "engine-1")


async def test_a_character_and_a_stop_text_may_lie_across_the_cut(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, stop=("END",))
    running.accept()
    token_ids = tokenizer.encode_rendered("x🫠 EN")
    for cut in range(1, len(token_ids) + 1):
        running.say(token_ids=token_ids[cut - 1 : cut])
        running.lose(EngineLost("gone"))
        await placed_again(running, cut)
        assert list(running.engines.submits[-1].generated_token_ids) == token_ids[:cut]
        running.accept()
    running.tokens("D and more", finish_reason=LENGTH)
    events = await running.events()
    assert text_of(events) == "x🫠 "
    assert end_of(events).stop_text == "END"
    assert end_of(events).resumptions == len(token_ids)


async def test_it_waits_for_an_engine_that_comes_back(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer)
    running.accept()
    running.engines.engine_ids = ()
    running.lose(EngineLost("gone"))
    await asyncio.sleep(0.02)
    assert not running.generation.events.ended
    running.engines.engine_ids = ("engine-1",)
    await placed_again(running)
    running.say(finish_reason=LENGTH)
    assert end_of(await running.events()).resumptions == 1


@pytest.mark.parametrize("refusal", [QueueFull("full"), EngineDraining("bye")])
async def test_refusals_on_the_way_do_not_count(
    tokenizer: ModelTokenizer, refusal: MeshError
) -> None:
    running = Running(tokenizer, engines=("engine-1", "engine-2"))
    running.accept()
    running.lose(EngineLost("gone"))
    for times in range(1, 6):
        await placed_again(running, times)
        running.fail(refusal)
    await placed_again(running, 6)
    running.accept()
    running.say(finish_reason=LENGTH)
    assert end_of(await running.events()).resumptions == 1


@pytest.mark.parametrize("timeout_s", [None, 0.2])
async def test_it_fails_when_no_engine_comes_in_time(
    tokenizer: ModelTokenizer, timeout_s: float | None
) -> None:
    running = Running(tokenizer, timeout_s=timeout_s, engine_wait_s=0.1)
    running.accept()
    running.tokens("so far")
    running.engines.engine_ids = ()
    running.lose(EngineLost("gone"))
    seen: list[Event] = []
    with pytest.raises(EngineLost):
        await running.read_into(seen)
    assert text_of(seen) == "so far"


async def test_it_does_not_wait_for_a_model_that_was_unloaded(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer)
    running.accept()
    running.engines.engine_ids, running.engines.expected = (), False
    running.lose(EngineLost("gone"))
    with pytest.raises(EngineLost, match="no longer loaded"):
        await running.events()


async def test_a_request_that_ends_every_engine_is_given_up(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, engines=("engine-1", "engine-2"))
    running.accept()
    for times in range(1, 4):
        running.lose(EngineLost("gone"))
        await placed_again(running, times)
        running.accept()
    running.lose(EngineLost("gone"))
    with pytest.raises(EngineLost):
        await running.events()
    assert len(running.engines.submits) == 4


async def test_cancel_ends_the_wait_for_an_engine(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer)
    running.accept()
    running.engines.engine_ids = ()
    running.lose(EngineLost("gone"))
    running.generation.cancel()
    assert end_of(await running.events()).reason is FinishReason.CANCELLED


# What began in another process.


@pytest.mark.parametrize("stop", [(), ("END",)])
async def test_what_began_elsewhere_goes_on_at_every_token(
    tokenizer: ModelTokenizer, stop: tuple[str, ...]
) -> None:
    token_ids = tokenizer.encode_rendered("x🫠 日本語 EN, no")
    for cut in range(len(token_ids) + 1):
        before = Running(tokenizer, stop=stop)
        before.accept()
        for token_id in token_ids[:cut]:
            before.say(token_ids=[token_id])
        sent = [event.text async for event in deltas(before)]
        received = ReceivedOutput(token_ids[:cut], len("".join(sent)))
        resumed = Resumed({0: received}, 1 + len(sent), 2)
        running = Running(tokenizer, stop=stop, resumed=resumed)
        await placed_again(running, 0)
        assert list(running.engines.submits[0].generated_token_ids) == token_ids[:cut]
        running.accept()
        if token_ids[cut:]:
            running.say(token_ids=token_ids[cut:])
        running.say(finish_reason=LENGTH)
        events = await running.events()
        assert "".join(sent) + text_of(events) == tokenizer.decode(token_ids)
        assert end_of(events).completion_tokens == len(token_ids)
        assert end_of(events).resumptions == 3
        assert not any(isinstance(event, Started) for event in events)


async def deltas(running: Running) -> AsyncIterator[Delta]:
    """What a reader has got by now."""
    while (event := running.generation.events.pop()) is not None:
        if isinstance(event, Delta):
            yield event


def once_more(token_ids: list[int], text: str) -> Resumed:
    """What a reader has after one delta."""
    return Resumed({0: ReceivedOutput(token_ids, len(text))}, 2, 0)


async def test_an_answer_that_was_complete_only_gets_its_end(tokenizer: ModelTokenizer) -> None:
    token_ids = tokenizer.encode_rendered("one.")
    running = Running(tokenizer, resumed=once_more(token_ids, "one"))
    await placed_again(running, 0)
    running.say(accepted=Accepted(), finish_reason=STOP)
    [end] = await running.events()
    assert end_of([end]).stop_token_id == token_ids[-1]


async def test_a_stop_text_that_was_complete_only_gets_its_end(tokenizer: ModelTokenizer) -> None:
    token_ids = tokenizer.encode_rendered("one END")
    running = Running(tokenizer, stop=("END",), resumed=once_more(token_ids, "one "))
    await placed_again(running, 0)
    running.accept()
    running.tokens("more")
    running.say(finish_reason=CANCELLED)
    [end] = await running.events()
    assert end_of([end]).stop_text == "END"
    assert end_of([end]).completion_tokens == len(token_ids)

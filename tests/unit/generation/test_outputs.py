"""Several outputs of one generation, their log-probabilities, and what a parser makes of them."""

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.generation.v1.generation_pb2 import (
    FINISH_REASON_STOP,
    FINISH_REASON_TOOL_CALLS,
    CompleteResponse,
    GenerateRequest,
)
from mlxmesh_gateway.forwarding.recording import Recording
from mlxmesh_generation import convert, convert_events
from mlxmesh_generation.convert_events import WholeOutputs
from mlxmesh_generation.domain.request import (
    Delta,
    Event,
    Finished,
    FinishReason,
    LogprobOptions,
    PromptLogprobs,
    Resumed,
    Started,
)
from mlxmesh_generation.domain.routing import Price
from mlxmesh_generation.placement.sequence import EngineConstraint
from mlxmesh_generation.streams.plan import output_seed
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_shared.errors import (
    ConstraintInvalid,
    EngineFailed,
    EngineLost,
    MeshError,
    NoReplica,
    QueueFull,
)
from tests.fakes.toy_format import toy_reading
from tests.unit.generation.running import CANCELLED, LENGTH, STOP, Running, placed_again

N = 3
TEXTS = (
    '((why so? 🫠)) It is [[weather#w1:{"city": "Zürich"}]] and [[weather#w1:{}]] END more',
    "no reasoning, only text (not [marks]) 日本",
    "[[a:1]][[b:[2, 3]]] ((late)) E",
)
STOPS = ("END",)


@pytest.fixture
def tokenizer(byte_level: ModelTokenizer) -> ModelTokenizer:
    return byte_level


def scored(token_ids: Sequence[int], *, top: int = 2) -> engine_pb2.Logprobs:
    """Log-probabilities that tell which token they belong to."""
    alternatives = [(token_id + place) % 500 for token_id in token_ids for place in range(top)]
    return engine_pb2.Logprobs(
        chosen=[-float(token_id) for token_id in token_ids],
        top_token_ids=alternatives,
        top=[-float(token_id) / 2 for token_id in alternatives],
    )


def waiting(running: Running) -> list[Event]:
    """What a reader gets now."""
    events: list[Event] = []
    while (event := running.generation.events.pop()) is not None:
        events.append(event)
    return events


def whole(events: Sequence[Event]) -> CompleteResponse:
    """All outputs in one message, without what differs after a resumption."""
    response = CompleteResponse()
    joined = WholeOutputs(response)
    for event in events:
        joined.add(event)
    joined.complete()
    for output in (response, *response.other_outputs):
        output.finished.ClearField("timings")
        output.finished.ClearField("device_ms")
    return response


# Several outputs.


async def test_outputs_share_a_beginning_and_end_one_by_one(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, n=N)
    seeds = [submit.sampling.seed for submit in running.engines.submits]
    assert seeds == [output_seed(42, index) for index in range(N)]
    assert seeds[0] == 42
    first = running.engines.sequences[0]
    assert running.engines.shared == [None, first, first]
    for index in (1, 0, 2):
        running.accept(index=index)
    for index in range(N):
        running.tokens("one ", index=index)
    running.tokens("two", index=0, finish_reason=LENGTH)
    running.tokens("zwei", index=2, finish_reason=LENGTH)
    assert not running.ended
    running.tokens("deux", index=1, finish_reason=LENGTH)
    assert running.ended == 1
    events = await running.events()
    assert [type(event) for event in events].count(Started) == 1
    assert isinstance(events[0], Started)
    ends = [event for event in events if isinstance(event, Finished)]
    assert [end.index for end in ends] == [0, 2, 1]
    assert [end.total is not None for end in ends] == [False, False, True]
    assert ends[-1] is events[-1]
    assert ends[-1].total is not None
    assert ends[-1].total.completion_tokens == sum(end.completion_tokens for end in ends)
    response = whole(events)
    assert [response.text, *(one.text for one in response.other_outputs)] == [
        "one two",
        "one deux",
        "one zwei",
    ]


async def test_device_time_is_that_of_all_outputs_with_a_shared_prefill_once(
    tokenizer: ModelTokenizer,
) -> None:
    price = Price(per_device_second=1000, per_million_completion_tokens=1_000_000)
    running = Running(tokenizer, n=N, price=price)
    timings = engine_pb2.SequenceTimings(prefill_ms=20, decode_ms=3)
    for index in range(N):
        # Output 2 is at another engine, which has not cached the prompt.
        cached = engine_pb2.Accepted(cached_tokens=0 if index == 2 else 2)
        running.say(index=index, accepted=cached)
    for index in (2, 0, 1):
        running.tokens("x", index=index, finish_reason=LENGTH, timings=timings)
    events = await running.events()
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.total is not None
    device_ms = 2 * 20 + 3 * 3
    assert last.total.device_ms == device_ms
    assert last.cost == device_ms + N
    [outcome] = running.outcomes
    assert (outcome.device_ms, outcome.cost, outcome.completion_tokens) == (
        device_ms,
        device_ms + N,
        N,
    )
    response = CompleteResponse()
    joined = WholeOutputs(response)
    for event in events:
        joined.add(event)
    assert (response.finished.device_ms, response.finished.cost) == (device_ms, last.cost)
    assert response.finished.total_usage.completion_tokens == N
    for other in response.other_outputs:
        assert other.finished.device_ms == other.finished.cost == 0
    assert convert_events.finished_of(response.finished).total == last.total


async def test_all_outputs_are_cancelled_together(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, n=N)
    running.accept()
    running.generation.cancel()
    assert all(sequence.cancelled for sequence in running.engines.sequences)
    for index in range(N):
        running.say(index=index, finish_reason=CANCELLED)
    ends = [event for event in await running.events() if isinstance(event, Finished)]
    assert [end.reason for end in ends] == [FinishReason.CANCELLED] * N


async def test_those_cancelled_before_the_start_reach_no_engine(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, n=N, cancelled=True)
    ends = [event for event in await running.events() if isinstance(event, Finished)]
    assert ([end.index for end in ends], running.engines.submits) == ([0, 1, 2], [])


async def test_those_cancelled_before_they_are_accepted_end_after_the_start(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, n=N)
    running.generation.cancel()
    running.say(index=1, finish_reason=CANCELLED)
    running.accept(index=0)
    for index in (0, 2):
        running.say(index=index, finish_reason=CANCELLED)
    kinds = [type(event) for event in await running.events()]
    assert kinds == [Started, Finished, Finished, Finished]


async def test_outputs_that_wait_for_the_prompt_are_cancelled_with_it(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, n=N, logprobs=LogprobOptions(prompt=True))
    running.accept()
    running.engines.engine_ids = ()
    running.lose(EngineLost("gone"))
    running.engines.engine_ids = ("engine-1",)
    running.generation.cancel()
    ends = [event for event in await running.events() if isinstance(event, Finished)]
    assert [end.reason for end in ends] == [FinishReason.CANCELLED] * N
    assert len(running.engines.submits) == 1


async def test_one_that_fails_for_good_ends_all(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, n=N, stop=("END",))
    for index in range(N):
        running.accept(index=index)
        running.tokens("so far E", index=index)
    running.fail(EngineFailed("broken"), index=1)
    assert running.sequence_of(0).dropped
    assert running.sequence_of(2).dropped
    running.tokens("late", index=2)
    events: list[Event] = []
    with pytest.raises(EngineFailed):
        await running.read_into(events)
    response = whole(events)
    assert [response.text, *(one.text for one in response.other_outputs)] == ["so far E"] * N
    assert running.ended == 1


@pytest.mark.parametrize("refusal", [QueueFull("full"), EngineLost("gone")])
async def test_an_output_beside_the_first_waits_for_room(
    tokenizer: ModelTokenizer, refusal: MeshError
) -> None:
    running = Running(tokenizer, n=2)
    running.accept()
    for times in range(1, 4):
        running.fail(refusal if times == 1 else QueueFull("full"), index=1)
        await placed_again(running, times + 1)
    running.accept(index=1)
    for index in (0, 1):
        running.tokens("x", index=index, finish_reason=LENGTH)
    ends = [event for event in await running.events() if isinstance(event, Finished)]
    assert [end.resumptions for end in ends] == [0, 0]


async def test_an_output_beside_the_first_is_placed_once_there_is_room(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, n=2, max_places=1)
    assert len(running.engines.submits) == 1
    running.accept()
    running.engines.max_places = 2
    await placed_again(running)
    for index in (0, 1):
        running.tokens("x", index=index, finish_reason=LENGTH)
    assert len(await running.events()) == 5


async def test_an_output_without_room_ends_all_in_time(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, n=2, max_places=1, engine_wait_s=0.05)
    running.accept()
    running.tokens("so far")
    events: list[Event] = []
    with pytest.raises(QueueFull) as caught:
        await running.read_into(events)
    assert caught.value.retry_delay_s
    assert whole(events).text == "so far"
    assert running.sequence_of(0).dropped


def test_the_first_output_needs_an_engine_at_once(tokenizer: ModelTokenizer) -> None:
    with pytest.raises(NoReplica):
        Running(tokenizer, n=2, engines=())


async def test_each_output_resumes_by_itself(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, n=2, engines=("engine-1", "engine-2"))
    for index in (0, 1):
        running.accept(index=index)
    known = running.tokens("one ", index=1)
    running.lose(EngineLost("gone"), index=1)
    await placed_again(running, 2)
    assert list(running.submit_of(1).generated_token_ids) == known
    assert running.submits_of(0) == 1
    running.accept(index=1)
    for index in (0, 1):
        running.tokens("two", index=index, finish_reason=LENGTH)
    events = await running.events()
    assert whole(events).other_outputs[0].text == "one two"
    ends = [event for event in events if isinstance(event, Finished)]
    assert [end.resumptions for end in ends] == [0, 1]


# Parsed output.


def deltas(events: Sequence[Event]) -> list[Delta]:
    return [event for event in events if isinstance(event, Delta)]


async def test_an_output_is_taken_apart(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, reading=toy_reading())
    running.accept()
    for token_id in tokenizer.encode_rendered(
        '((hm, 日本))It is [[sun#own:{"a": 1}]] or [[rain:2]]'
    ):
        running.say(token_ids=[token_id])
    reasoning = tokenizer.encode_rendered("((hm, 日本))")
    [end] = tokenizer.encode_rendered(".")
    running.say(token_ids=[end], finish_reason=STOP)
    events = await running.events()
    response = whole(events)
    assert (response.text, response.reasoning_text) == ("It is  or ", "hm, 日本")
    first, second = response.tool_calls
    assert (first.index, first.id, first.name, first.arguments) == (0, "own", "sun", '{"a": 1}')
    assert (second.index, second.name, second.arguments) == (1, "rain", "2")
    assert second.id.startswith("call_")
    assert len(second.id) == len("call_") + 24
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.TOOL_CALLS
    assert finished.stop_token_id == end
    assert 0 < finished.reasoning_tokens < len(reasoning)
    assert finished.total is not None
    assert finished.total.reasoning_tokens == finished.reasoning_tokens


async def test_an_id_that_the_model_repeats_is_replaced(tokenizer: ModelTokenizer) -> None:
    ids: set[str] = set()
    for _ in range(2):
        running = Running(tokenizer, n=2, reading=toy_reading())
        for index in (0, 1):
            running.accept(index=index)
            running.tokens("[[a#x:1]][[a#x:2]]", index=index, finish_reason=LENGTH)
        response = whole(await running.events())
        calls = [*response.tool_calls, *response.other_outputs[0].tool_calls]
        assert [call.id for call in calls][::2] == ["x", "x"]
        ids |= {call.id for call in calls}
    assert len(ids) == 3  # the same again for the same request, output and call


async def test_a_call_that_a_stop_text_or_the_length_cuts_is_none_that_ended(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(tokenizer, reading=toy_reading(), stop=("END",))
    running.accept()
    running.tokens('[[a:{"x": END"}]]')
    running.say(finish_reason=CANCELLED)
    response = whole(await running.events())
    assert response.finished.stop_text == "END"
    assert response.tool_calls[0].arguments == '{"x": '
    assert response.finished.finish_reason == FINISH_REASON_STOP
    running = Running(tokenizer, reading=toy_reading())
    running.accept()
    running.tokens("[[a:1]]", finish_reason=LENGTH)
    assert end_reason(await running.events()) is FinishReason.LENGTH


def end_reason(events: Sequence[Event]) -> FinishReason:
    assert isinstance(events[-1], Finished)
    return events[-1].reason


async def test_what_a_parser_holds_back_is_shown_at_the_end(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, reading=toy_reading())
    running.accept()
    running.tokens("text (", finish_reason=LENGTH)
    assert whole(await running.events()).text == "text ("


async def test_a_parser_sees_special_tokens_that_mark_something(
    tokenizer: ModelTokenizer, metaspace: ModelTokenizer
) -> None:
    for each in (tokenizer, metaspace):
        running = Running(each, reading=toy_reading(open_call="<s>"))
        running.accept()
        [special, other] = each.encode_rendered("<s></s>")[-2:]
        token_ids = [*each.encode_rendered("so"), other, special, *each.encode_rendered("a:1]]")]
        running.say(token_ids=token_ids, finish_reason=LENGTH)
        response = whole(await running.events())
        assert response.text == "so"
        assert [call.name.strip() for call in response.tool_calls] == ["a"]


# Log-probabilities.


async def test_each_token_has_its_log_probability(tokenizer: ModelTokenizer) -> None:
    running = Running(tokenizer, logprobs=LogprobOptions(top=2), stop=("END",))
    running.accept()
    token_ids = tokenizer.encode_rendered("日本 END more")
    running.say(token_ids=token_ids, logprobs=scored(token_ids))
    running.say(finish_reason=CANCELLED)
    response = whole(await running.events())
    kept = list(response.token_ids)
    assert kept == token_ids[: len(kept)]
    assert len(kept) < len(token_ids)
    assert [one.token_id for one in response.logprobs] == kept
    assert [one.logprob for one in response.logprobs] == [-float(each) for each in kept]
    assert b"".join(one.bytes for one in response.logprobs).decode().startswith("日本 END")
    assert [top.token_id for top in response.logprobs[0].top] == [kept[0], (kept[0] + 1) % 500]
    assert not running.submit_of(0).logprobs.prompt
    assert running.submit_of(0).logprobs.top == 2


async def test_the_prompt_has_log_probabilities_before_any_output(
    tokenizer: ModelTokenizer,
) -> None:
    running = Running(
        tokenizer, n=2, logprobs=LogprobOptions(top=1, prompt=True), engines=("e-1", "e-2")
    )
    assert running.submit_of(0).logprobs.prompt
    assert len(running.engines.submits) == 1  # the others come after the prompt
    running.accept()
    running.say(prompt_logprobs=scored([6], top=1))
    running.lose(EngineLost("gone"))
    await placed_again(running)
    running.accept()
    for token_id in (6, 7):
        running.say(prompt_logprobs=scored([token_id], top=1))
    running.say(token_ids=[9], logprobs=scored([9], top=1))
    assert running.submits_of(1) == 1
    assert not running.submit_of(1).logprobs.prompt
    running.accept(index=1)
    for index in (0, 1):
        running.say(index=index, token_ids=[8], logprobs=scored([8], top=1), finish_reason=LENGTH)
    events = await running.events()
    scores = [event for event in events if isinstance(event, PromptLogprobs)]
    tokens = [token for event in scores for token in event.tokens]
    assert [(token.token_id, token.logprob) for token in tokens] == [(5, None), (6, -6), (7, -7)]
    assert [len(token.top) for token in tokens] == [0, 1, 1]
    assert max(map(events.index, scores)) < min(map(events.index, deltas(events)))


async def test_an_engines_error_about_a_constraint_names_the_callers_field(
    tokenizer: ModelTokenizer,
) -> None:
    constraint = EngineConstraint("lark", "start: X", field="tools")
    running = Running(tokenizer, constraint=constraint, n=2)
    assert running.submit_of(1).constraint.lark == "start: X"
    running.fail(ConstraintInvalid("no X", field="constraint.lark"))
    with pytest.raises(ConstraintInvalid) as caught:
        await running.events()
    assert caught.value.field == "tools"


# Resumption.


class Script:
    """What the engines say of each output, however often they are lost."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self.token_ids = [tokenizer.encode_rendered(text) for text in TEXTS]
        [end] = tokenizer.encode_rendered(".")
        self.token_ids[2].append(end)

    def say(self, running: Running, index: int, known: int, count: int) -> int:
        """The next tokens; returns how many are known then."""
        every = self.token_ids[index]
        new = every[known : known + count]
        is_last = known + len(new) == len(every)
        reason = (STOP if index == 2 else LENGTH) if is_last else None
        running.say(index=index, token_ids=new, logprobs=scored(new), finish_reason=reason)
        return known + len(new)


def resumed_after(events: Sequence[Event]) -> Resumed:
    """What another process is told of these events, over the gateway's recording."""
    recording = Recording()
    for sequence, event in enumerate(events, 1):
        recording.add(convert_events.generate_response(sequence, event).SerializeToString())
    request = GenerateRequest(model="pocket", prompt="x", n=N)
    return convert.resumed(recording.resume_request(request))


class Reader:
    """Runs one generation to its end, in as many processes as there are cuts."""

    def __init__(self, tokenizer: ModelTokenizer, steps: Sequence[tuple[int, int]]) -> None:
        self._script = Script(tokenizer)
        self._new = partial(
            Running,
            tokenizer,
            n=N,
            reading=toy_reading(),
            stop=STOPS,
            logprobs=LogprobOptions(top=2),
        )
        self._steps = steps
        self._known = [0] * N
        self.events: list[Event] = []

    async def run(self, cuts: Sequence[int] = (), *, reads_every: int = 1) -> CompleteResponse:
        """cuts: the numbers of the steps before which the process is lost."""
        running = self._new()
        for index in range(N):
            running.accept(index=index)
        for number, (index, count) in enumerate(self._steps):
            if number in cuts and not is_over(self.events):
                running = await self._continue(running)
            self._step(running, index, count)
            if not number % reads_every:
                self.events += waiting(running)
        for index in range(N):
            self._step(running, index, 10_000)
        self.events += waiting(running)
        return whole(self.events)

    def _step(self, running: Running, index: int, count: int) -> None:
        if running.submits_of(index) and self._known[index] < len(self._script.token_ids[index]):
            self._known[index] = self._script.say(running, index, self._known[index], count)
            if running.sequence_of(index).cancelled:
                running.say(index=index, finish_reason=CANCELLED)

    async def _continue(self, running: Running) -> Running:
        """Another process, which knows only what was read here."""
        resumed = resumed_after(self.events)
        running.generation.close()
        running = self._new(resumed=resumed)
        left = [index for index in range(N) if not is_ended(resumed, index)]
        await placed_again(running, len(left) - 1)
        for index in left:
            self._known[index] = len(running.submit_of(index).generated_token_ids)
            self._accept(running, index)
        return running

    def _accept(self, running: Running, index: int) -> None:
        running.accept(index=index)
        if self._known[index] == len(self._script.token_ids[index]):
            running.say(index=index, finish_reason=STOP if index == 2 else LENGTH)


def is_over(events: Sequence[Event]) -> bool:
    return any(isinstance(event, Finished) and event.total is not None for event in events)


def is_ended(resumed: Resumed, index: int) -> bool:
    output = resumed.outputs.get(index)
    return output is not None and output.finished is not None


def run(
    tokenizer: ModelTokenizer,
    steps: Sequence[tuple[int, int]],
    cuts: Sequence[int] = (),
    *,
    reads_every: int = 1,
) -> CompleteResponse:
    return asyncio.run(Reader(tokenizer, steps).run(cuts, reads_every=reads_every))


# So many that an output ends within them, one token or a few at a time.
all_steps = st.lists(st.tuples(st.integers(0, N - 1), st.integers(1, 9)), min_size=1, max_size=60)


def test_what_the_script_says(byte_level: ModelTokenizer) -> None:
    response = run(byte_level, [])
    assert response.reasoning_text == "why so? 🫠"
    assert response.text == " It is  and  "
    assert [call.arguments for call in response.tool_calls] == ['{"city": "Zürich"}', "{}"]
    assert response.tool_calls[0].id == "w1"
    assert response.finished.stop_text == "END"
    one, two = response.other_outputs
    assert one.text == TEXTS[1]
    assert [(call.name, call.arguments) for call in two.tool_calls] == [("a", "1"), ("b", "[2, 3")]
    assert two.text == "]  E"
    assert two.finished.finish_reason == FINISH_REASON_TOOL_CALLS


@settings(max_examples=60, deadline=None)
@given(steps=all_steps, data=st.data())
def test_every_cut_gives_the_whole(
    byte_level: ModelTokenizer, steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(1, max(1, len(steps) - 1)), max_size=3, unique=True))
    reads_every = data.draw(st.integers(1, 4))
    assert run(byte_level, steps, cuts, reads_every=reads_every) == run(byte_level, [])


def test_a_cut_after_every_token_gives_the_whole(byte_level: ModelTokenizer) -> None:
    longest = max(map(len, Script(byte_level).token_ids))
    steps = [(index, 1) for _ in range(longest) for index in range(N)]
    expected = run(byte_level, [])
    for cut in range(1, len(steps), 5):
        assert run(byte_level, steps, [cut, cut + 2]) == expected, cut

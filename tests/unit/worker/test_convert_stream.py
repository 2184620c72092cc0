"""A stream that is replayed, divided in any way, adds each part once."""

import random
from collections.abc import Sequence

import pytest

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.generation.v1.generation_pb2 import (
    FINISH_REASON_LENGTH,
    CompleteResponse,
    Delta,
    Finished,
    GenerateResponse,
    GetGenerationResponse,
    Output,
    PromptLogprobs,
    Started,
    TokenLogprob,
    ToolCall,
    Usage,
)
from mlxmesh.job.v1.worker_pb2 import StreamPosition
from mlxmesh_worker.kinds.convert_stream import (
    Merged,
    Received,
    Replay,
    add_to_whole,
    snapshot_messages,
)

TEXTS = ("Zürich 👩‍👩‍👧 日本語 and so on", "the other output", "third")
SEEDS = range(40)


def whole_stream(random_: random.Random, outputs: int) -> list[GenerateResponse]:
    """The same content for every division: reasoning, text, tokens and two tool calls each."""
    pieces: list[list[Delta]] = [_output(random_, index) for index in range(outputs)]
    messages = [GenerateResponse(started=Started(model="m", model_version=1))]
    prompt = [TokenLogprob(token_id=token) for token in range(7)]
    cut = random_.randrange(8)
    for part in (prompt[:cut], prompt[cut:]):
        if part:
            messages.append(GenerateResponse(prompt_logprobs=PromptLogprobs(tokens=part)))
    left = [index for index, each in enumerate(pieces) for _ in each]
    random_.shuffle(left)
    ended: list[int] = []
    for index in left:
        messages.append(GenerateResponse(delta=pieces[index].pop(0)))
        if not pieces[index]:
            ended.append(index)
            last = len(ended) == outputs
            total = Usage(completion_tokens=20 * outputs) if last else None
            finished = Finished(
                index=index, finish_reason=FINISH_REASON_LENGTH, total_usage=total,
                cost=2.5 if last else 0,
            )  # fmt: skip
            messages.append(GenerateResponse(finished=finished))
    return messages


def _output(random_: random.Random, index: int) -> list[Delta]:
    text, reasoning = TEXTS[index], "because " + TEXTS[index]
    arguments = ['{"city": "Zürich"}', '{"n": [1, 2, 3]}']
    units: list[Delta] = [Delta(reasoning_text=each) for each in reasoning]
    units += [Delta(text=each) for each in text]
    for number, argument in enumerate(arguments):
        call = ToolCall(index=number, id=f"call-{index}-{number}", name="look")
        units.append(Delta(tool_calls=[call]))
        units += [Delta(tool_calls=[ToolCall(index=number, arguments=each)]) for each in argument]
    for token in range(20):
        at = len(units) * token // 20
        units[at].token_ids.append(1000 * index + token)
        units[at].logprobs.append(TokenLogprob(token_id=1000 * index + token))
    cuts = sorted(random_.sample(range(1, len(units)), random_.randrange(1, 12)))
    joined: list[Delta] = []
    for start, end in zip([0, *cuts], [*cuts, len(units)], strict=True):
        merged = Merged()
        for unit in units[start:end]:
            unit.index = index
            merged.add(GenerateResponse(delta=unit))
        joined += [each.delta for each in merged.take()]
    return joined


def as_whole(messages: Sequence[GenerateResponse]) -> CompleteResponse:
    response = CompleteResponse()
    for message in messages:
        add_to_whole(response, message)
    for output in (response, *response.other_outputs):
        # Which output ends last differs from run to run.
        output.finished.ClearField("total_usage")
        output.finished.ClearField("cost")
    return response


def replayed(received: Received, messages: Sequence[GenerateResponse]) -> list[GenerateResponse]:
    replay = Replay(received)
    new = [replay.new(message) for message in messages]
    return [each for each in new if each is not None]


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_several_attempts_add_is_the_whole_stream_once(seed: int, outputs: int) -> None:
    random_ = random.Random(seed)
    expected = whole_stream(random_, outputs)
    stored: list[GenerateResponse] = []
    position, started = StreamPosition(), None
    for attempt in range(4):
        received = Received(outputs, position, started)
        stream = whole_stream(random_, outputs)
        reached = len(stream) if attempt == 3 else random_.randrange(len(stream) + 1)
        merged = Merged()
        for message in replayed(received, stream[:reached]):
            merged.add(message)
            if random_.random() < 0.3:
                stored += merged.take()
        stored += merged.take()
        position = StreamPosition.FromString(received.position().SerializeToString())
        started = received.started
    assert as_whole(stored) == as_whole(expected)
    assert stored[0].HasField("started")
    assert [each.HasField("started") for each in stored].count(True) == 1
    ends = [each.finished for each in stored if each.HasField("finished")]
    assert sorted(each.index for each in ends) == list(range(outputs))
    assert [each.HasField("total_usage") for each in ends] == [False] * (outputs - 1) + [True]
    assert (stored[-1].finished, stored[-1].finished.cost) == (ends[-1], 2.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_snapshots_add_what_is_new(seed: int) -> None:
    random_ = random.Random(seed)
    stream = whole_stream(random_, 2)
    received = Received(2)
    stored: list[GenerateResponse] = []
    for reached in sorted({random_.randrange(len(stream)), len(stream)}):
        stored += replayed(received, list(snapshot_messages(_snapshot(stream[:reached]))))
    assert as_whole(stored) == as_whole(stream)
    assert stored[-1].finished.HasField("total_usage")


def _snapshot(messages: Sequence[GenerateResponse]) -> GetGenerationResponse:
    whole = CompleteResponse()
    for message in messages:
        add_to_whole(whole, message)
    return GetGenerationResponse.FromString(_renumbered(whole).SerializeToString())


def _renumbered(whole: CompleteResponse) -> GetGenerationResponse:
    return GetGenerationResponse(
        started=whole.started if whole.HasField("started") else None,
        text=whole.text,
        token_ids=whole.token_ids,
        finished=whole.finished if whole.finished.finish_reason else None,
        reasoning_text=whole.reasoning_text,
        tool_calls=whole.tool_calls,
        logprobs=whole.logprobs,
        other_outputs=whole.other_outputs,
        prompt_logprobs=whole.prompt_logprobs,
    )


def test_a_failed_snapshot_has_no_end() -> None:
    failed = GetGenerationResponse(text="a", failure=Failure(code=14))
    messages = list(snapshot_messages(failed))
    assert [each.WhichOneof("event") for each in messages] == ["delta"]


def test_the_end_of_a_stream_that_is_stored_is_known() -> None:
    stream = whole_stream(random.Random(1), 1)
    received = Received(1)
    replayed(received, stream)
    again = Received(1, received.position(), received.started)
    replay = Replay(again)
    assert [replay.new(message) for message in stream] == [None] * len(stream)
    assert replay.last is not None
    assert replay.last.cost == 2.5


def test_other_outputs_have_their_indexes() -> None:
    whole = CompleteResponse()
    add_to_whole(whole, GenerateResponse(delta=Delta(index=2, text="c")))
    assert list(whole.other_outputs) == [Output(index=1), Output(index=2, text="c")]

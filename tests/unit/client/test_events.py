"""Wire messages as events."""

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_client.outputs import Outputs, join_tool_calls, to_event


def test_a_delta_carries_text_and_tokens() -> None:
    event = to_event(g.GenerateResponse(sequence=2, delta=g.Delta(text="é", token_ids=[5, 6])))

    assert (event.sequence, event.text, event.token_ids) == (2, "é", (5, 6))
    assert event.started is event.progress is event.finished is None


def test_other_messages_carry_no_text() -> None:
    started = to_event(g.GenerateResponse(sequence=1, started=g.Started(engine_id="e")))
    progress = to_event(g.GenerateResponse(prefill_progress=g.PrefillProgress(total_tokens=9)))
    finished = to_event(g.GenerateResponse(finished=g.Finished(stop_text="x")))

    assert started.started is not None
    assert started.started.engine_id == "e"
    assert progress.progress is not None
    assert progress.progress.total_tokens == 9
    assert finished.finished is not None
    assert finished.finished.stop_text == "x"
    assert (started.text, progress.text, finished.text) == ("", "", "")


def response(**event: object) -> g.GenerateResponse:
    return g.GenerateResponse(**event)  # pyright: ignore[reportArgumentType]


def logprob(token_id: int) -> g.TokenLogprob:
    return g.TokenLogprob(token_id=token_id, logprob=-1.5, bytes=b"x")


def test_a_delta_carries_reasoning_calls_and_logprobs() -> None:
    call = g.ToolCall(id="c", name="f", arguments="{")
    delta = g.Delta(index=2, reasoning_text="Hm", tool_calls=[call], logprobs=[logprob(5)])
    event = to_event(response(delta=delta))

    assert (event.index, event.reasoning_text) == (2, "Hm")
    assert (event.tool_calls, event.logprobs) == ((call,), (logprob(5),))
    assert not event.is_last


def test_prompt_logprobs_are_an_event_of_their_own() -> None:
    event = to_event(response(prompt_logprobs=g.PromptLogprobs(tokens=[logprob(1), logprob(2)])))

    assert [one.token_id for one in event.prompt_logprobs] == [1, 2]
    assert event.token_ids == event.logprobs == ()


def test_only_the_end_of_all_outputs_is_the_last() -> None:
    usage = g.Usage(completion_tokens=1)
    one = to_event(response(finished=g.Finished(index=1, usage=usage)))
    last = to_event(response(finished=g.Finished(usage=usage, total_usage=usage)))

    assert (one.index, one.is_last, last.index, last.is_last) == (1, False, 0, True)


def test_pieces_join_to_whole_calls() -> None:
    pieces = [
        g.ToolCall(id="c-0", name="f"),
        g.ToolCall(arguments='{"a":'),
        g.ToolCall(arguments=" 1}"),
        g.ToolCall(index=1, id="c-1", name="g", arguments="{}"),
    ]
    assert join_tool_calls(pieces) == [
        g.ToolCall(id="c-0", name="f", arguments='{"a": 1}'),
        g.ToolCall(index=1, id="c-1", name="g", arguments="{}"),
    ]
    assert join_tool_calls([]) == []
    assert pieces[0] == g.ToolCall(id="c-0", name="f")


def test_events_join_to_the_whole_response() -> None:
    started = g.Started(request_id="r")
    end = g.Finished(finish_reason=g.FINISH_REASON_STOP, total_usage=g.Usage(prompt_tokens=2))
    other_end = g.Finished(index=1, finish_reason=g.FINISH_REASON_TOOL_CALLS)
    call = g.ToolCall(id="c", name="f", arguments="{}")
    outputs = Outputs()
    for one in (
        response(started=started),
        response(prefill_progress=g.PrefillProgress(total_tokens=9)),
        response(prompt_logprobs=g.PromptLogprobs(tokens=[logprob(1)])),
        response(delta=g.Delta(index=1, reasoning_text="Hm", token_ids=[7], tool_calls=[call])),
        response(delta=g.Delta(text="a", token_ids=[5], logprobs=[logprob(5)])),
        response(finished=other_end),
        response(delta=g.Delta(text="b", token_ids=[6], logprobs=[logprob(6)])),
        response(finished=end),
    ):
        outputs.add(to_event(one))

    other = g.Output(
        index=1, reasoning_text="Hm", token_ids=[7], tool_calls=[call], finished=other_end
    )
    assert len(outputs) == 2
    assert outputs.as_response() == g.CompleteResponse(
        started=started,
        text="ab",
        token_ids=[5, 6],
        logprobs=[logprob(5), logprob(6)],
        prompt_logprobs=[logprob(1)],
        finished=end,
        other_outputs=[other],
    )

"""What is known of a stream when its instance is lost."""

import pytest

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_gateway.forwarding.recording import MAX_RAW_MESSAGES, Recording

REQUEST = g.GenerateRequest(model="pocket:stable", prompt="x", sampling=Sampling(temperature=1))


def recorded(deltas: int, *, finished: bool = False, keeps_all: bool = False) -> Recording:
    recording = Recording(keeps_all=lambda: keeps_all)
    started = g.Started(request_id="gen-1", model="pocket", model_version=3, seed=9)
    recording.add(g.GenerateResponse(sequence=1, started=started).SerializeToString())
    for number in range(deltas):
        delta = g.Delta(text="ä", token_ids=[number, number])
        message = g.GenerateResponse(sequence=number + 2, delta=delta)
        recording.add(message.SerializeToString())
    if finished:
        message = g.GenerateResponse(
            sequence=deltas + 2, finished=g.Finished(total_usage=g.Usage())
        )
        recording.add(message.SerializeToString())
    return recording


@pytest.mark.parametrize("deltas", [0, 1, MAX_RAW_MESSAGES, 3 * MAX_RAW_MESSAGES + 5])
def test_everything_another_instance_needs(deltas: int) -> None:
    recording = recorded(deltas)
    assert recording.tokens == 2 * deltas
    resume = recording.resume_request(REQUEST)
    outputs = (
        []
        if not deltas
        else [
            g.ReceivedOutput(
                token_ids=[n for n in range(deltas) for _ in range(2)], text_characters=deltas
            )
        ]
    )
    assert list(resume.outputs) == outputs
    assert resume.after_sequence == deltas + 1
    assert (resume.started.model_version, resume.started.seed) == (3, 9)
    pinned = resume.generation
    assert (pinned.model, pinned.request_id, pinned.sampling.seed) == ("pocket@3", "gen-1", 9)
    assert (pinned.prompt, pinned.sampling.temperature) == ("x", 1)
    assert REQUEST.model == "pocket:stable"


@pytest.mark.parametrize("deltas", [0, 1, MAX_RAW_MESSAGES, 3 * MAX_RAW_MESSAGES + 5])
def test_messages_that_another_instance_is_to_retain(deltas: int) -> None:
    resume = recorded(deltas, keeps_all=True).resume_request(REQUEST)
    assert [message.sequence for message in resume.received] == [*range(1, deltas + 2)]
    assert resume.received[0].started == resume.started
    assert "".join(message.delta.text for message in resume.received) == "ä" * deltas
    assert not recorded(deltas).resume_request(REQUEST).received


def test_it_tells_who_numbered_the_last_message() -> None:
    recording = recorded(1)
    assert recording.resume_request(REQUEST).numbering == 0  # an instance of an earlier version
    for sequence, numbering in ((3, 7), (4, 9)):
        message = g.GenerateResponse(
            sequence=sequence, numbering=numbering, delta=g.Delta(text="a")
        )
        recording.add(message.SerializeToString())
        assert recording.resume_request(REQUEST).numbering == numbering


def test_nothing_is_recorded_at_first() -> None:
    assert not Recording()
    assert recorded(0)


@pytest.mark.parametrize("deltas", [0, MAX_RAW_MESSAGES - 1, 2 * MAX_RAW_MESSAGES])
def test_the_end_is_known_by_the_last_message(deltas: int) -> None:
    assert recorded(deltas, finished=True).finished
    unfinished = recorded(deltas)
    assert not unfinished.finished
    assert unfinished.tokens == 2 * deltas
    assert not unfinished.finished


def delta(index: int, **fields: object) -> g.GenerateResponse:
    return g.GenerateResponse(delta=g.Delta(index=index, **fields))  # pyright: ignore[reportArgumentType]


def test_each_output_is_counted_by_itself() -> None:
    recording = recorded(0)
    scores = [g.TokenLogprob(token_id=5), g.TokenLogprob(token_id=6)]
    ended = g.Finished(index=2, finish_reason=g.FINISH_REASON_LENGTH)
    messages = [
        g.GenerateResponse(prompt_logprobs=g.PromptLogprobs(tokens=scores)),
        delta(2, token_ids=[1], text="ä"),
        delta(0, token_ids=[2], reasoning_text="wäs"),
        delta(0, token_ids=[3, 4], tool_calls=[g.ToolCall(index=0, id="a", name="x")]),
        delta(0, tool_calls=[g.ToolCall(index=0, arguments="{}")]),
        delta(
            0,
            token_ids=[5],
            tool_calls=[
                g.ToolCall(index=0, arguments=" "),
                g.ToolCall(index=1, id="b", name="y", arguments='{"ä'),
            ],
        ),
        g.GenerateResponse(finished=ended),
        delta(0, token_ids=[6], tool_calls=[g.ToolCall(index=1, arguments='": 1')]),
    ]
    for sequence, message in enumerate(messages, 2):
        message.sequence = sequence
        recording.add(message.SerializeToString())
    assert not recording.finished
    assert recording.tokens == 6
    resume = recording.resume_request(REQUEST)
    assert resume.prompt_logprobs == 2
    assert list(resume.outputs) == [
        g.ReceivedOutput(
            token_ids=[2, 3, 4, 5, 6],
            reasoning_characters=3,
            tool_calls=2,
            arguments_characters=7,
        ),
        g.ReceivedOutput(index=2, token_ids=[1], text_characters=1, finished=ended),
    ]


def test_the_end_of_one_output_is_not_the_end() -> None:
    recording = recorded(1)
    message = g.GenerateResponse(sequence=3, finished=g.Finished(index=1))
    recording.add(message.SerializeToString())
    assert not recording.finished
    message = g.GenerateResponse(sequence=4, finished=g.Finished(total_usage=g.Usage()))
    recording.add(message.SerializeToString())
    assert recording.finished


def test_the_steps_of_an_ensemble_are_kept_and_counted() -> None:
    steps = [g.EnsembleStep(model="a", usage=g.Usage(completion_tokens=9))]
    started = g.Started(model="b", model_version=2, seed=5, ensemble="crowd", steps=steps)
    recording = Recording()
    for sequence, message in enumerate(
        [g.GenerateResponse(started=started), delta(0, token_ids=[1, 2])], 1
    ):
        message.sequence = sequence
        recording.add(message.SerializeToString())
    assert (recording.tokens, recording.used_tokens) == (2, 11)
    resume = recording.resume_request(REQUEST)
    assert resume.started == started
    assert resume.generation.model == "b@2"

"""What a terminal shows of a response while it arrives."""

from __future__ import annotations

import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_cli.screen import response_writer
from mlxmesh_cli.screen.response_writer import ResponseWriter
from mlxmesh_client import GenerationEvent, Outputs
from mlxmesh_client.outputs import to_event

DIM, RESET = "\x1b[2m", "\x1b[0m"


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(response_writer, "is_terminal", lambda: True)
    monkeypatch.setattr(response_writer, "terminal_columns", lambda: 20)


def delta(text: str = "", *, reasoning: str = "", index: int = 0) -> GenerationEvent:
    piece = g.Delta(text=text, reasoning_text=reasoning, index=index)
    return to_event(g.GenerateResponse(delta=piece))


def end(index: int = 0) -> GenerationEvent:
    return to_event(g.GenerateResponse(finished=g.Finished(index=index)))


def shown(capsys: pytest.CaptureFixture[str], *events: GenerationEvent) -> str:
    outputs = Outputs()
    writer = ResponseWriter(outputs)
    for event in events:
        outputs.add(event)
        writer.write(event)
    writer.end()
    return capsys.readouterr().out


def undimmed(text: str) -> str:
    return text.replace(DIM, "").replace(RESET, "")


def test_reasoning_is_dimmed_and_apart_from_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, delta(reasoning="I think "), delta(reasoning="so. "), delta("Yes."), end())
    assert undimmed(out) == "I think so.\n\nYes.\n"
    before, _, after = out.rpartition(RESET)
    assert DIM in before
    assert DIM not in after
    assert after == "\n\nYes.\n"


def test_reasoning_is_wrapped_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, delta(reasoning="one two three four five six"), end())
    assert undimmed(out) == "one two three four\nfive six\n"


def test_what_arrives_is_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = Outputs()
    writer = ResponseWriter(outputs)
    for event in (delta("one "), delta("two ")):
        outputs.add(event)
        writer.write(event)
    assert capsys.readouterr().out == "one two"


def test_control_characters_of_a_call_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    call = g.ToolCall(name="f", arguments="\x1b[2J")
    piece = to_event(g.GenerateResponse(delta=g.Delta(tool_calls=[call])))
    out = shown(capsys, piece, end())
    assert "\x1b[2J" not in out
    assert "not JSON" in " ".join(out.split())


def test_a_broken_stream_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, delta("half")) == "half\n"
    assert shown(capsys) == ""


def last(index: int = 0) -> GenerationEvent:
    finished = g.Finished(index=index, total_usage=g.Usage(completion_tokens=1))
    return to_event(g.GenerateResponse(finished=finished))


def test_outputs_after_the_first_have_headings(capsys: pytest.CaptureFixture[str]) -> None:
    """As `attach` shows them, which does not know how many there are."""
    out = shown(capsys, delta("one"), end(), delta("two", index=1), last(1))
    assert "one\n\n\x1b[1moutput 2\x1b[0m\ntwo\n" in out


def test_an_output_that_ended_before_the_stream_was_resumed_hides_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = shown(capsys, delta("three", index=2), delta("two", index=1), end(1), last(2))
    assert out.index("output 2") < out.index("two") < out.index("output 3") < out.index("three")
    assert "output 1" not in out


def test_a_call_that_was_cut_is_not_called_broken(capsys: pytest.CaptureFixture[str]) -> None:
    call = to_event(
        g.GenerateResponse(delta=g.Delta(tool_calls=[g.ToolCall(name="f", arguments='{"a": ')]))
    )
    cut = g.Finished(finish_reason=g.FINISH_REASON_LENGTH)
    out = " ".join(shown(capsys, call, to_event(g.GenerateResponse(finished=cut))).split())
    assert "(the maximum length cut these arguments)" in out
    assert "not JSON" not in out


def test_a_probability_of_one_has_no_sign(capsys: pytest.CaptureFixture[str]) -> None:
    token = g.TokenLogprob(bytes=b"a", logprob=-0.00001)
    sure = to_event(g.GenerateResponse(delta=g.Delta(text="a", logprobs=[token])))
    out = shown(capsys, sure, end())
    assert "0.000" in out
    assert "-0.000" not in out

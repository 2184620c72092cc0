"""Wire messages as events."""

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_client.generations import to_event


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

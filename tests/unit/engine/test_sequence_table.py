"""How sequences end: by an end token, their length, a cancel, a deadline, or with their stream."""

import pytest

from mlxmesh_engine.scheduling.request import FinishReason, SequenceKey, SequenceRequest
from mlxmesh_engine.scheduling.sequence_table import SequenceTable
from mlxmesh_shared.errors import DeadlineExceeded


class Rig:
    """A table that records which sequences it removed."""

    def __init__(self) -> None:
        self.removed: list[SequenceKey] = []
        self.table = SequenceTable(on_remove=lambda active: self.removed.append(active.key))


def request(number: int, *, stream: int = 1, deadline_s: float | None = None) -> SequenceRequest:
    return SequenceRequest(
        (stream, number), (1, 2), 2, end_token_ids=frozenset({9}), deadline_s=deadline_s
    )


@pytest.mark.parametrize(
    ("tokens", "reason"), [((5, 6), FinishReason.LENGTH), ((9,), FinishReason.STOP)]
)
def test_the_last_token_ends_the_sequence(tokens: tuple[int, ...], reason: FinishReason) -> None:
    rig = Rig()
    active = rig.table.add(request(1))
    for token in tokens:
        assert not active.ended
        rig.table.append_tokens(active, (token,), 1.0)
    updates = rig.table.pop_outputs()[1]
    assert [update.token_ids for update in updates] == [(token,) for token in tokens]
    assert (updates[-1].finish_reason, active.ended, len(rig.table)) == (reason, True, 0)
    assert updates[-1].timings is not None
    assert rig.removed == [(1, 1)]


def test_outputs_are_popped_once() -> None:
    rig = Rig()
    rig.table.append_tokens(rig.table.add(request(1)), (5,), 1.0, deferrable=True)
    assert rig.table.has_outputs
    ((update,),) = rig.table.pop_outputs().values()
    assert update.deferrable
    assert (rig.table.has_outputs, rig.table.pop_outputs()) == (False, {})


def test_a_passed_deadline_fails_only_its_sequence() -> None:
    rig = Rig()
    for number, deadline_s in ((1, 5.0), (2, 6.0), (3, None)):
        rig.table.add(request(number, deadline_s=deadline_s))
    rig.table.fail_expired(5.0)
    ((update,),) = rig.table.pop_outputs().values()
    assert isinstance(update.error, DeadlineExceeded)
    assert rig.removed == [(1, 1)]


def test_a_cancel_is_answered_and_a_dropped_stream_is_not() -> None:
    rig = Rig()
    for number, stream in ((1, 1), (2, 2), (3, 2)):
        rig.table.add(request(number, stream=stream))
    rig.table.cancel((1, 1), 1.0)
    rig.table.cancel((1, 7), 1.0)
    rig.table.drop_stream(2)
    ((update,),) = rig.table.pop_outputs().values()
    assert update.finish_reason is FinishReason.CANCELLED
    assert rig.removed == [(1, 1), (2, 2), (2, 3)]
    assert list(rig.table) == []

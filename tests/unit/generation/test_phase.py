"""Every phase with every change; what the table does not allow is an error."""

from itertools import product

import pytest

from mlxmesh_generation.streams.phase import Change, Phase, next_phase
from mlxmesh_generation.streams.recovery import Action, action_after
from mlxmesh_shared.errors import (
    ContextTooLong,
    EngineDraining,
    EngineFailed,
    EngineLost,
    IllegalState,
    InvalidArgument,
    MeshError,
    QueueFull,
)

# One row per phase; "-" marks an illegal change.
TABLE = """
             SUBMIT       ACCEPT    WAIT     STOP      FINISH    FAIL
CREATED      SUBMITTED    -         WAITING  STOPPING  -         FAILED
SUBMITTED    SUBMITTED    RUNNING   WAITING  STOPPING  FINISHED  FAILED
RUNNING      -            -         WAITING  STOPPING  FINISHED  FAILED
WAITING      RESUBMITTED  -         -        STOPPING  -         FAILED
RESUBMITTED  -            RUNNING   WAITING  STOPPING  FINISHED  FAILED
STOPPING     -            STOPPING  -        STOPPING  FINISHED  FAILED
FINISHED     -            -         -        -         -         -
FAILED       -            -         -        -         -         -
"""


def table() -> dict[tuple[Phase, Change], str]:
    header, *rows = TABLE.strip().splitlines()
    changes = [Change[name] for name in header.split()]
    return {
        (Phase[name], change): cell
        for name, *cells in (row.split() for row in rows)
        for change, cell in zip(changes, cells, strict=True)
    }


def test_the_table_names_every_phase_and_every_change() -> None:
    assert set(table()) == set(product(Phase, Change))


@pytest.mark.parametrize(("phase", "change"), list(product(Phase, Change)))
def test_each_change_leads_where_the_table_says(phase: Phase, change: Change) -> None:
    expected = table()[phase, change]
    if expected == "-":
        with pytest.raises(IllegalState, match=f"a {phase.value} .* cannot {change.value}"):
            next_phase(phase, change)
    else:
        assert next_phase(phase, change) is Phase[expected]


def test_nothing_follows_the_end() -> None:
    ended = {phase for phase in Phase if phase.ended}
    assert ended == {Phase.FINISHED, Phase.FAILED}
    assert all(table()[phase, change] == "-" for phase in ended for change in Change)


def test_every_phase_can_be_reached_and_can_end() -> None:
    legal = {key: Phase[cell] for key, cell in table().items() if cell != "-"}
    reached = {Phase.CREATED}
    for _ in Phase:
        reached |= {target for (phase, _), target in legal.items() if phase in reached}
    assert reached == set(Phase)
    assert all((phase, Change.FAIL) in legal for phase in Phase if not phase.ended)


@pytest.mark.parametrize(
    ("error", "submitted", "running", "resubmitted"),
    [
        (ContextTooLong("x"), Action.SHORTEN, Action.FAIL, Action.SHORTEN),
        (InvalidArgument("x"), Action.FAIL, Action.FAIL, Action.FAIL),
        (EngineFailed("x"), Action.FAIL, Action.FAIL, Action.FAIL),
        (QueueFull("x"), Action.TRY_ANOTHER, Action.RESUME, Action.RETRY),
        (EngineDraining("x"), Action.TRY_ANOTHER, Action.RESUME, Action.RETRY),
        (EngineLost("x"), Action.TRY_ANOTHER, Action.RESUME, Action.RESUME),
    ],
)
def test_the_action_after_a_failure(
    error: MeshError, submitted: Action, running: Action, resubmitted: Action
) -> None:
    assert action_after(error, Phase.SUBMITTED) is submitted
    assert action_after(error, Phase.RUNNING) is running
    assert action_after(error, Phase.RESUBMITTED) is resubmitted

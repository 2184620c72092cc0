"""A consumer of outcomes that fails keeps nobody else from counting, in both kinds of database."""

import logging
from collections.abc import AsyncGenerator, Sequence

import pytest

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.history import history
from mlxmesh_model.outcomes.outcome import Outcome
from mlxmesh_model.outcomes.recorder import Consumer, Recorder
from mlxmesh_shared.errors import DatabaseBusy
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.outcomes import outcome

KEY = "INSERT INTO outcome_batches (instance_id, batch, recorded_s) VALUES ('half', 1, 1)"


@pytest.fixture
async def store(database: DatabaseUrl) -> AsyncGenerator[Store]:
    store = await Store.open(database)
    yield store
    await store.close()


class Failing:
    """Writes something, and then raises until it is repaired."""

    def __init__(self, error: Exception | None = None, statement: str = "") -> None:
        self.error = error
        self.statement = statement

    async def __call__(self, session: Session, outcomes: Sequence[Outcome]) -> None:
        await session.fetch(KEY + " ON CONFLICT (instance_id) DO NOTHING")
        if self.statement:
            await session.fetch(self.statement)
        if self.error is not None:
            raise self.error


async def instances(store: Store) -> list[str]:
    async with store.transactions.write() as session:
        rows = await session.fetch("SELECT instance_id FROM outcome_batches ORDER BY instance_id")
        return [row["instance_id"] for row in rows]


async def counted(store: Store) -> int:
    async with store.transactions.write() as session:
        [row] = await session.fetch("SELECT COUNT(*) AS number FROM history")
        return row["number"]


@pytest.mark.parametrize(
    "failing",
    [Failing(ZeroDivisionError()), Failing(statement="SELECT * FROM nowhere")],
    ids=["error", "statement"],
)
@pytest.mark.parametrize("first", [True, False])
async def test_the_others_count_and_it_is_logged_once(
    store: Store, caplog: pytest.LogCaptureFixture, failing: Failing, first: bool
):
    consumers: list[Consumer] = [failing, history.count] if first else [history.count, failing]
    recorder = Recorder(store, consumers)
    with caplog.at_level(logging.ERROR, logger="mlxmesh_model.outcomes.recorder"):
        for batch in (1, 2, 3):
            await recorder.record("generation-1", batch, [outcome()])
    assert await counted(store) == 1
    assert await instances(store) == ["generation-1"]
    assert len(caplog.records) == 1
    assert "Failing fails" in caplog.text


async def test_a_new_fault_after_a_repair_is_logged(store: Store, caplog: pytest.LogCaptureFixture):
    failing = Failing(ZeroDivisionError())
    recorder = Recorder(store, [failing])
    await recorder.record("generation-1", 1, [outcome()])
    repaired, failing.error = failing.error, None
    await recorder.record("generation-1", 2, [outcome()])
    assert "half" in await instances(store)
    failing.error = repaired
    await recorder.record("generation-1", 3, [outcome()])
    assert len(caplog.records) == 2


async def test_a_database_that_is_busy_leaves_the_batch_to_be_repeated(store: Store):
    failing = Failing(DatabaseBusy("it is"))
    recorder = Recorder(store, [history.count, failing])
    with pytest.raises(DatabaseBusy):
        await recorder.record("generation-1", 1, [outcome()])
    assert await counted(store) == 0
    failing.error = None
    await recorder.record("generation-1", 1, [outcome()])
    assert await counted(store) == 1

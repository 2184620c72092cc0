"""What time does: steps of the clock, and what queues show."""

from __future__ import annotations

from typing import Any

from mlxmesh_jobs import queues
from mlxmesh_jobs.domain.jobs import Kind, Owner, QueueCounts, QueueSettings
from mlxmesh_jobs.domain.ports import UsageEntry
from mlxmesh_jobs.maintenance import ClockWatch
from mlxmesh_jobs.usage.ledger import Subject, spent, sums
from mlxmesh_jobs.workers.facts import decoded, encoded
from mlxmesh_jobs.workers.messages import BackEnd, WorkerFacts

HOUR_MS = 3_600_000


def test_a_clock_that_was_set_is_noticed_once() -> None:
    watch = ClockWatch(1_000_000, 50.0)
    assert watch.step_s(1_001_000, 51.0) == 0
    assert watch.step_s(1_002_100, 52.0) == 0
    assert watch.step_s(1_003_000 + HOUR_MS, 53.0) > 3_000
    assert watch.step_s(1_004_000 + HOUR_MS, 54.0) == 0
    assert watch.step_s(1_005_000, 55.0) < -3_000


def facts(
    *kinds: Kind, queues: tuple[str, ...] = (), connectors: tuple[str, ...] = ()
) -> WorkerFacts:
    return WorkerFacts(
        worker_id="w1",
        kinds=frozenset(kinds),
        queues=frozenset(queues),
        connectors=dict.fromkeys(connectors, ("run",)),
    )


def counts(name: str, **fields: int) -> QueueCounts:
    return QueueCounts(name=name, settings=QueueSettings(), **fields)


def test_queues_are_those_with_jobs_settings_or_workers() -> None:
    shown = queues.shown(
        [counts("generation", waiting=1)],
        [facts(Kind.GENERATION, queues=("night", "generation"), connectors=("sim_http",))],
    )
    found = {each.counts.name: each.workers for each in shown}
    assert found == {"generation": 1, "night": 1, "sim_http": 0}


def test_what_keeps_jobs_from_starting() -> None:
    generator = facts(Kind.GENERATION)

    def blocked(one: QueueCounts, *workers: WorkerFacts) -> str:
        return queues.shown([one], workers)[0].blocked

    assert blocked(counts("generation")) == ""
    assert "no connected worker" in blocked(counts("generation", waiting=1))
    assert "no connected worker" in blocked(counts("embedding", waiting=1), generator)
    assert blocked(counts("generation", waiting=1), generator) == ""
    assert blocked(counts("batch", waiting=1)) == ""  # a jobs service runs them
    full = QueueCounts(name="q", settings=QueueSettings(max_running=1), waiting=1, running=1)
    assert "max_running" in blocked(full, generator)
    paused = QueueCounts(name="q", settings=QueueSettings(paused=True), waiting=1)
    assert blocked(paused, generator) == "the queue is paused"


def test_facts_are_what_they_were() -> None:
    end = BackEnd(
        connector="c", name="n", address="a", healthy=False, reason="r", operations=["run"]
    )
    given = WorkerFacts(
        worker_id="w1",
        host="h",
        slots=3,
        running=2,
        kinds=frozenset({Kind.REQUEST}),
        connectors={"c": ["run"]},
        queues=frozenset({"q"}),
        back_ends=[end],
    )
    assert decoded(encoded(given), 2) == given


def entry(tokens: int, hour: int = 0, **owner: Any) -> UsageEntry:
    return UsageEntry(
        owner=Owner(owner="#", principal=f"key:{owner.get('key_id', '')}", share="s", **owner),
        model="chat",
        model_version=3,
        used_ms=hour * HOUR_MS + 5,
        failed=tokens == 0,
        prompt_tokens=tokens,
        cached_tokens=1,
        completion_tokens=2 * tokens,
        device_ms=7,
    )


def test_usage_is_summed_by_who_used_what_and_when() -> None:
    found = sums([entry(1, key_id="k"), entry(0, key_id="k"), entry(5, 1, key_id="k")])
    assert [(key.hour_ms, each.requests, each.errors) for key, each in found.items()] == [
        (0, 2, 1),
        (HOUR_MS, 1, 0),
    ]
    first = next(iter(found.values()))
    assert (first.prompt_tokens, first.completion_tokens, first.cached_tokens) == (1, 2, 2)
    assert (first.device_ms, first.last_used_ms) == (14, 5)


def test_tokens_count_for_key_user_and_team() -> None:
    found = spent([entry(1, key_id="k", user="ada", team="core"), entry(2, user="ada")])
    assert {subject: each.tokens for subject, each in found.items()} == {
        Subject("key", "k"): 3,
        Subject("user", "ada"): 9,
        Subject("team", "core"): 3,
    }
    assert found[Subject("user", "ada")].principals == {"key:k", "key:"}

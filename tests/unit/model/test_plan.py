"""What a pass of the reconciler does with replicas."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import FailureRecord, Phase, Replica, Source, Version
from mlxmesh_model.replicas import plan
from mlxmesh_model.replicas.placement import Engine, Runtime

CRASHED = FailureRecord(13, "ENGINE_CRASHED", "exit code 1")


def version(*replicas: Replica) -> Version:
    return Version(
        "pocket", 1, State.READY, Source("/m"), datetime.now(UTC), replicas=tuple(replicas)
    )


def hosts(**engines: dict[str, Phase] | None) -> dict[str, Runtime]:
    def runtime(name: str, found: dict[str, Phase] | None) -> Runtime:
        if found is None:
            return Runtime(name)
        failures = {Phase.FAILED: CRASHED}
        known = {key: Engine(key, phase, failures.get(phase)) for key, phase in found.items()}
        return Runtime(name, 0, known)

    return {name: runtime(name, found) for name, found in engines.items()}


@pytest.mark.parametrize(
    ("before", "runtimes", "expected"),
    [
        (Phase.PENDING, hosts(r={"e": Phase.STARTING}), Phase.STARTING),
        (Phase.STARTING, hosts(r={"e": Phase.READY}), Phase.READY),
        (Phase.READY, hosts(r={"e": Phase.STARTING}), Phase.STARTING),
        (Phase.READY, hosts(r={"e": Phase.FAILED}), Phase.FAILED),
        # A runtime that came back empty has to be told again.
        (Phase.READY, hosts(r={}), Phase.PENDING),
        (Phase.FAILED, hosts(r={}), Phase.PENDING),
        # A failed replica that somebody loads again waits for its runtime to be told.
        (Phase.PENDING, hosts(r={"e": Phase.FAILED}), Phase.PENDING),
        # No answer is no news; no lease is the end.
        (Phase.READY, hosts(r=None), Phase.READY),
        (Phase.READY, hosts(other={}), None),
        (Phase.STOPPING, hosts(r={"e": Phase.READY}), Phase.STOPPING),
        (Phase.STOPPING, hosts(r={}), None),
    ],
)
def test_observe(before, runtimes, expected):
    found = plan.observe(version(Replica("e", "r", before)), runtimes)
    assert [replica.phase for replica in found] == ([expected] if expected else [])


def test_a_failure_is_observed_and_cleared():
    [failed] = plan.observe(version(Replica("e", "r", Phase.READY)), hosts(r={"e": Phase.FAILED}))
    assert failed.failure == CRASHED
    [ready] = plan.observe(version(failed), hosts(r={"e": Phase.READY}))
    assert ready.failure is None


def test_the_least_useful_replica_is_stopped_first():
    phases = [Phase.READY, Phase.STARTING, Phase.FAILED, Phase.READY, Phase.STOPPING]
    replicas = tuple(Replica(f"e{n}", "r", phase) for n, phase in enumerate(phases))
    kept = [r.engine_id for r in plan.trim(replicas, desired=2) if r.phase is not Phase.STOPPING]
    assert kept == ["e0", "e3"]


@pytest.mark.parametrize(("desired", "missing"), [(0, 0), (1, 0), (3, 2)])
def test_missing_does_not_count_stopping_replicas(desired, missing):
    replicas = [Replica("a", "r", Phase.READY), Replica("b", "r", Phase.STOPPING)]
    assert plan.missing(replicas, desired=desired) == missing


def test_orphans():
    runtimes = hosts(r={"e": Phase.READY, "stray": Phase.READY}, q=None)
    known = version(Replica("e", "r", Phase.READY))
    assert plan.orphans([known], runtimes.values()) == [("r", "stray")]


@pytest.mark.parametrize(
    ("others", "stopping", "missing"),
    [
        ([], [], 2),
        ([Phase.STARTING, Phase.STARTING], [], 0),
        ([Phase.READY, Phase.STARTING], ["a"], 0),
        ([Phase.READY, Phase.FAILED], ["a"], 0),
        ([Phase.READY, Phase.READY], ["a", "b"], 0),
    ],
)
def test_replicas_on_a_draining_runtime_stop_as_others_get_ready(others, stopping, missing):
    here = (Replica("a", "old", Phase.READY), Replica("b", "old", Phase.READY))
    there = tuple(Replica(f"n{i}", "new", phase) for i, phase in enumerate(others))
    trimmed = plan.trim((*here, *there), desired=2, draining={"old"})
    assert [r.engine_id for r in trimmed if r.phase is Phase.STOPPING] == stopping
    assert plan.missing(trimmed, desired=2, draining={"old"}) == missing


def old(engine_id: str, phase: Phase = Phase.READY) -> Replica:
    return Replica(engine_id, "r", phase)


def new(engine_id: str, phase: Phase = Phase.READY) -> Replica:
    return Replica(engine_id, "r", phase, settings_id="s")


@pytest.mark.parametrize(
    ("replicas", "desired", "stopping", "missing"),
    [
        # One after another: the next is placed once the last is ready and its predecessor gone.
        ([old("a"), old("b")], 2, [], 1),
        ([old("a"), old("b"), new("x", Phase.STARTING)], 2, [], 0),
        ([old("a"), old("b"), new("x")], 2, ["a"], 0),
        ([old("b"), new("x")], 2, [], 1),
        ([old("b"), new("x"), new("y", Phase.STARTING)], 2, [], 0),
        ([old("b"), new("x"), new("y")], 2, ["b"], 0),
        ([new("x"), new("y")], 2, [], 0),
        # The new settings do not work: the old replicas stay.
        ([old("a"), old("b"), new("x", Phase.FAILED)], 2, [], 0),
        # What does not serve is no use.
        ([old("a", Phase.FAILED), old("b", Phase.STARTING)], 2, ["a", "b"], 2),
        ([old("a", Phase.PENDING)], 1, ["a"], 1),
        # Fewer and more replicas at the same time.
        ([old("a"), old("b")], 1, ["a"], 0),
        ([old("a")], 3, [], 3),
        ([old("a"), new("x", Phase.STARTING), new("y", Phase.STARTING)], 3, [], 0),
        ([old("a"), new("x")], 0, ["a", "x"], 0),
        # And back to the settings of before, while a replacement starts.
        ([new("a"), old("x", Phase.STARTING)], 1, ["x"], 0),
    ],
)
def test_replicas_with_other_settings_are_replaced(replicas, desired, stopping, missing):
    trimmed = plan.trim(tuple(replicas), desired=desired, settings_id="s")
    assert [r.engine_id for r in trimmed if r.phase is Phase.STOPPING] == stopping
    assert plan.missing(trimmed, desired=desired, settings_id="s") == missing


@pytest.mark.parametrize("desired", [1, 2, 5])
def test_every_replica_is_replaced_and_never_more_than_one_is_missing(desired):
    replicas = tuple(old(f"a{i}") for i in range(desired))
    most = serving = desired
    for step in range(10 * desired):
        replicas = plan.trim(replicas, desired=desired, settings_id="s")
        for number in range(plan.missing(replicas, desired=desired, settings_id="s")):
            replicas += (new(f"x{step}-{number}", Phase.STARTING),)
        most = max(most, len(replicas))
        serving = min(serving, sum(r.phase is Phase.READY for r in replicas))
        # What starts becomes ready, and what stops ends.
        replicas = tuple(
            replace(r, phase=Phase.READY) for r in replicas if r.phase is not Phase.STOPPING
        )
    assert [r.settings_id for r in replicas] == ["s"] * desired
    assert (most, serving) == (desired + 1, desired)


def test_room_is_made_by_one_at_a_time():
    made = plan.make_room((new("x"), old("b"), old("a")), settings_id="s")
    assert made is not None
    assert [r.engine_id for r in made if r.phase is Phase.STOPPING] == ["a"]
    assert plan.make_room(made, settings_id="s") is None
    assert plan.make_room((new("x"),), settings_id="s") is None


READY = Replica("e", "r", Phase.READY)


@pytest.mark.parametrize(
    ("replicas", "desired", "runtimes", "expected"),
    [
        ([READY], 1, hosts(r={"e": Phase.READY}), True),
        ([], 0, hosts(r={}), True),
        ([READY], 2, hosts(r={"e": Phase.READY}), False),
        ([READY], 0, hosts(r={"e": Phase.READY}), False),
        ([new("e")], 1, hosts(r={"e": Phase.READY}), False),
        ([Replica("e", "r", Phase.STARTING)], 1, hosts(r={"e": Phase.STARTING}), False),
        # What a runtime reports differs from the catalogue, or a runtime reports nothing.
        ([READY], 1, hosts(r={"e": Phase.FAILED}), False),
        ([READY], 1, hosts(r={}), False),
        ([READY], 1, hosts(r=None), False),
        ([READY], 1, hosts(r={"e": Phase.READY}, other=None), False),
        # A draining runtime is about to be replaced.
        ([READY], 1, {"r": replace(hosts(r={"e": Phase.READY})["r"], draining=True)}, False),
    ],
)
def test_settled(replicas, desired, runtimes, expected):
    one = replace(version(*replicas), desired_replicas=desired)
    assert plan.settled([one], runtimes.values()) is expected

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


READY = Replica("e", "r", Phase.READY)


@pytest.mark.parametrize(
    ("replicas", "desired", "runtimes", "expected"),
    [
        ([READY], 1, hosts(r={"e": Phase.READY}), True),
        ([], 0, hosts(r={}), True),
        ([READY], 2, hosts(r={"e": Phase.READY}), False),
        ([READY], 0, hosts(r={"e": Phase.READY}), False),
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

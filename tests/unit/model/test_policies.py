"""What policies change by themselves, and how they are merged."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import Model, Phase, Replica, Source, Version
from mlxmesh_model.catalogue.routing import Arm, Policy, Price, Shadow, Split, Subject
from mlxmesh_model.replicas.placement import Engine, Runtime
from mlxmesh_model.replicas.policy_decisions import (
    LOOK_S,
    Cause,
    adjustments,
    is_evictable,
    least_replicas,
    look_again_s,
)
from mlxmesh_model.replicas.scaling import Scaling, ScalingRules
from mlxmesh_model.replicas.usage import Usage, UsageTracker
from mlxmesh_shared.errors import InvalidArgument


def version(number: int = 1, *, desired: int = 1, state: State = State.READY) -> Version:
    replicas = tuple(Replica(f"e{number}-{n}", "r", Phase.READY) for n in range(desired))
    found = Version("m", number, state, Source("/m"), datetime.now(UTC), replicas=replicas)
    return replace(found, desired_replicas=desired)


def model(policy: Policy, *versions: Version) -> Model:
    return Model("m", versions or (version(),), policy=policy)


def changes(found: Model, **usage: float) -> list[tuple[int, int, Cause]]:
    of_each = {
        one.label: Usage(ready_engines=one.desired_replicas, **usage)  # pyright: ignore[reportArgumentType]
        for one in found.versions
    }
    asked = adjustments([found], of_each, Scaling(), 100.0)
    return [(one.version.number, one.replicas, one.cause) for one in asked]


def test_an_idle_version_is_unloaded():
    found = model(Policy(idle_unload_s=60))
    assert changes(found, idle_s=59) == []
    assert changes(found, idle_s=60) == [(1, 0, Cause.IDLE)]
    assert changes(found, running=1, idle_s=0) == []
    assert changes(model(Policy()), idle_s=1e9) == []


@pytest.mark.parametrize("kept", [Policy(pinned=True), Policy(min_replicas=1)])
def test_a_version_that_is_kept_is_not_unloaded(kept: Policy):
    assert changes(model(replace(kept, idle_unload_s=1)), idle_s=1e6) == []
    assert not is_evictable(model(kept), version(), on_demand_default=True)


ROLLOUT = Split((Arm("new", 2, 1), Arm("present", 1, 99)), "r", Subject.REQUEST, rollout_id="r")
EXPERIMENT = Split((Arm("a", 2, 50), Arm("b", 3, 50)), "e", Subject.SESSION, experiment_id="e")


@pytest.mark.parametrize(
    ("routed", "kept"),
    [
        ({"splits": {"stable": ROLLOUT}, "aliases": {"stable": 1}}, {1, 2}),
        ({"splits": {"stable": EXPERIMENT}, "aliases": {"stable": 1}}, {1, 2, 3}),
        ({"splits": {"default": EXPERIMENT}}, {2, 3, 4}),
        ({"shadows": (Shadow("s", 2, 3, 10.0),)}, {2, 3}),
        ({"shadows": (Shadow("s", 0, 3, 10.0),)}, {3}),
        ({"aliases": {"stable": 1}}, set[int]()),
    ],
)
def test_what_a_split_or_a_shadow_needs_stays_loaded(routed: dict[str, Any], kept: set[int]):
    versions = tuple(version(number) for number in (1, 2, 3, 4))
    found = replace(model(Policy(idle_unload_s=1), *versions), **routed)
    assert {number for number, _, _ in changes(found, idle_s=1e6)} == {1, 2, 3, 4} - kept
    evictable = {v.number for v in versions if is_evictable(found, v, on_demand_default=True)}
    assert evictable == {1, 2, 3, 4} - kept


def test_what_an_experiment_waits_for_stays_loaded():
    found = model(Policy(idle_unload_s=1), version(1), version(2))
    usages = {one.label: Usage(ready_engines=1, idle_s=9) for one in found.versions}
    asked = adjustments([found], usages, Scaling(), 0.0, {"m@2"})
    assert [one.version.number for one in asked] == [1]
    assert not is_evictable(found, found.versions[1], {"m@2"}, on_demand_default=True)


def test_min_replicas_are_loaded_of_the_default_version_alone():
    found = model(Policy(min_replicas=2), version(1, desired=0), version(2, desired=1))
    assert changes(found) == [(2, 2, Cause.SCALED)]
    # The other version may be idle, and give way.
    assert is_evictable(found, found.versions[0], on_demand_default=True)
    pulling = model(Policy(min_replicas=1), version(desired=0, state=State.PULLING))
    assert changes(pulling) == []


def test_versions_give_way_only_if_a_request_loads_them_again():
    of_mesh = model(Policy())
    assert is_evictable(of_mesh, version(), on_demand_default=True)
    assert not is_evictable(of_mesh, version(), on_demand_default=False)
    off = model(Policy(load_on_demand=False))
    assert not is_evictable(off, version(), on_demand_default=True)
    on = model(Policy(load_on_demand=True))
    assert is_evictable(on, version(), on_demand_default=False)


def test_the_next_look_is_due_when_a_version_may_be_idle_for_long_enough():
    used = {"m@1": Usage(idle_s=58, ready_engines=1)}
    assert look_again_s([model(Policy(idle_unload_s=60))], used, interval_s=1) == 2
    assert look_again_s([model(Policy())], used, interval_s=1) == LOOK_S
    assert look_again_s([model(Policy(max_replicas=2))], used, interval_s=1) == 1
    unloaded = model(Policy(idle_unload_s=1), version(desired=0))
    assert look_again_s([unloaded], {}, interval_s=1) is None


POLICIES = st.builds(
    Policy,
    load_on_demand=st.none() | st.booleans(),
    idle_unload_s=st.none() | st.integers(0, 100),
    pinned=st.none() | st.booleans(),
    min_replicas=st.none() | st.integers(0, 4),
    max_replicas=st.none() | st.integers(0, 6),
)


@given(POLICIES, st.integers(0, 6), st.floats(0, 200), st.integers(0, 9), st.integers(0, 9000))
def test_policies_never_go_below_what_they_keep(
    policy: Policy, desired: int, idle_s: float, running: int, wait_ms: int
):
    found = model(policy, version(desired=desired))
    least = least_replicas(found, found.versions[0])
    busy_s = 0.0 if running else idle_s
    for _, replicas, cause in changes(
        found, idle_s=busy_s, running=running, longest_wait_ms=wait_ms
    ):
        assert replicas >= least
        if cause is Cause.IDLE:
            assert not policy.pinned
            assert not running
            assert replicas == 0
        else:
            assert replicas > 0


def test_a_part_of_a_policy_is_set():
    policy = Policy(idle_unload_s=5, pinned=True, price=Price(1.0))
    changed = policy.updated(Policy(pinned=False, max_replicas=3))
    assert changed == Policy(idle_unload_s=5, pinned=False, max_replicas=3, price=Price(1.0))
    assert changed.updated(Policy(price=Price(0, 2.0))).price == Price(0, 2.0)
    assert changed.updated(Policy()) == changed


@pytest.mark.parametrize(
    ("before", "change", "field"),
    [
        (Policy(max_replicas=2), Policy(min_replicas=3), "policy.min_replicas"),
        (Policy(min_replicas=3), Policy(max_replicas=2), "policy.max_replicas"),
        (Policy(), Policy(min_replicas=3, max_replicas=2), "policy.min_replicas"),
    ],
)
def test_a_minimum_above_the_maximum_is_refused(before: Policy, change: Policy, field: str):
    with pytest.raises(InvalidArgument) as caught:
        before.updated(change)
    assert caught.value.field == field
    assert before.updated(Policy(min_replicas=2, max_replicas=2)).max_replicas == 2
    # No maximum at all.
    assert before.updated(Policy(min_replicas=9, max_replicas=0)).min_replicas == 9


def engine(**load: Any) -> dict[str, Runtime]:
    return {"r": Runtime("r", 0, {"e1-0": Engine("e1-0", Phase.READY, **load)})}


def test_use_since_it_is_ready_is_noticed():
    tracker, one = UsageTracker(), version()
    first = tracker.observe([one], engine(idle_ms=0), 10.0)["m@1"]
    assert (first.served, first.busy, first.ready_s) == (False, False, 0.0)
    later = tracker.observe([one], engine(idle_ms=2000), 12.0)["m@1"]
    assert (later.served, later.idle_s, later.ready_s) == (False, 2.0, 2.0)
    used = tracker.observe([one], engine(idle_ms=500), 14.0)["m@1"]
    assert used.served
    busy = tracker.observe([one], engine(running_sequences=1, longest_wait_ms=7), 15.0)["m@1"]
    assert (busy.busy, busy.idle_s, busy.longest_wait_ms) == (True, 0.0, 7)


def test_background_sequences_keep_it_in_use_and_add_no_replica():
    one = version()
    used = UsageTracker().observe([one], engine(background_sequences=9), 10.0)["m@1"]
    assert (used.busy, used.served, used.idle_s) == (True, True, 0.0)
    scaling = Scaling(ScalingRules(grow_after_s=0.0))
    grown = [
        scaling.replicas("m@1", used, desired=1, low=1, high=4, now_s=float(now_s))
        for now_s in range(10)
    ]
    assert grown == [1] * 10


def test_what_callers_say_counts_when_it_is_newer():
    tracker, one = UsageTracker(), version()
    tracker.observe([one], engine(idle_ms=0), 10.0)
    tracker.note_use("m@1", 11.0)
    tracker.note_use("m@1", 10.5)
    used = tracker.observe([one], engine(idle_ms=2000), 12.0)["m@1"]
    assert (used.served, used.idle_s) == (True, 1.0)
    newer = tracker.observe([one], engine(idle_ms=200), 13.0)["m@1"]
    assert newer.idle_s == 0.2


def test_an_engine_that_is_not_ready_or_is_stopping_is_not_used():
    tracker = UsageTracker()
    starting = {"r": Runtime("r", 0, {"e1-0": Engine("e1-0", Phase.STARTING)})}
    assert tracker.observe([version()], starting, 0.0) == {}
    stopping = replace(version(), replicas=(Replica("e1-0", "r", Phase.STOPPING),))
    assert tracker.observe([stopping], engine(), 0.0) == {}
    assert tracker.observe([version()], {"r": Runtime("r")}, 0.0) == {}

"""Resolving references, and the default version."""

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import (
    FailureRecord,
    Model,
    Phase,
    Replica,
    Source,
    Version,
    default_version,
)
from mlxmesh_shared.errors import ModelNotFound, QueueFull
from mlxmesh_shared.reference import ModelReference


def version(number: int, state: State = State.AVAILABLE, *, ready: int = 0) -> Version:
    replicas = tuple(Replica(f"e{n}", "r", Phase.READY) for n in range(ready))
    return Version(
        "pocket", number, state, Source("/models/pocket"), datetime.now(UTC), replicas=replicas
    )


REPLICAS = (Replica("e0", "r", Phase.READY),)


@st.composite
def some_versions(draw):
    numbers = sorted(draw(st.sets(st.integers(1, 50), min_size=1, max_size=6)))
    states = st.sampled_from([State.AVAILABLE, State.READY, State.PULLING, State.PULL_FAILED])
    drawn = [
        version(number, state := draw(states), ready=2 if state is State.READY else 0)
        for number in numbers
    ]
    # What is not on disk was never loaded.
    on_disk = (State.AVAILABLE, State.READY)
    return tuple(
        replace(each, selected=each.state in on_disk and draw(st.booleans())) for each in drawn
    )


@given(some_versions())
def test_the_default_is_the_newest_selected_ready_else_selected_else_on_disk(versions):
    chosen = default_version(versions, {})
    by_number = {v.number: v for v in versions}

    def rank(v):
        on_disk = v.state in (State.READY, State.AVAILABLE)
        return (v.selected and v.ready_replicas > 0, v.selected, on_disk, v.number)

    assert by_number[chosen] is max(versions, key=rank)


@given(some_versions())
def test_what_is_loaded_on_demand_does_not_move_the_default(versions):
    loaded = tuple(
        each if each.selected else replace(each, state=State.READY, replicas=REPLICAS)
        for each in versions
        if each.state is State.AVAILABLE
    )
    before = tuple(each for each in versions if each.state is State.AVAILABLE)
    assert default_version(loaded, {}) == default_version(before, {})


@given(some_versions(), st.data())
def test_the_alias_default_has_priority(versions, data):
    number = data.draw(st.sampled_from([v.number for v in versions]))
    assert default_version(versions, {"default": number, "stable": 99}) == number


def test_no_version_has_no_default():
    assert default_version((), {}) == 0


def test_references():
    model = Model("pocket", (version(1), version(2)), {"stable": 1})
    assert model.resolve(ModelReference.parse("pocket")).number == 2
    assert model.resolve(ModelReference.parse("pocket@1")).number == 1
    assert model.resolve(ModelReference.parse("pocket:stable")).number == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("pocket@7", "has no version 7; it has 1, 2"),
        ("pocket:x", "has no alias x; it has stable"),
    ],
)
def test_errors_of_unknown_references_list_the_known_ones(reference, message):
    model = Model("pocket", (version(1), version(2)), {"stable": 1})
    with pytest.raises(ModelNotFound, match=message):
        model.resolve(ModelReference.parse(reference))


def test_replicas_failure_and_state_change_together():
    failure = FailureRecord.of(QueueFull("full"))
    loading = Version(
        "pocket", 1, State.LOADING, Source("/m"), datetime.now(UTC), desired_replicas=1
    )
    failed = loading.with_replicas((), failure)
    assert (failed.state, failed.failure) == (State.LOAD_FAILED, failure)
    ready = failed.with_replicas((Replica("e", "r", Phase.READY),), None)
    assert (ready.state, ready.failure, ready.ready_replicas) == (State.READY, None, 1)


def test_sources_and_labels():
    assert str(Source(repo_id="a/b", revision="main", commit="1")) == "a/b@main"
    assert str(Source("/models/x")) == "/models/x"
    assert version(3).label == "pocket@3"


def test_an_ensemble_says_that_it_has_no_versions():
    ensemble = Model("chat", (), ensemble='{"kind": "vote"}')
    for ask in (partial(ensemble.version, 1), partial(ensemble.aliased, "default")):
        with pytest.raises(ModelNotFound, match="chat is an ensemble and has no versions"):
            ask()

"""Which changes of the catalogue are events."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mlxmesh_model.catalogue.adapter import Adapter
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import (
    Artifact,
    FailureRecord,
    Model,
    Phase,
    Replica,
    Source,
    Version,
)
from mlxmesh_model.model_events import publish_change, publish_rejection

ARTIFACT = Artifact("/models/pocket", "d" * 64, "llama", 10, 20, "float32", 4096, 1024)
FAILURE = FailureRecord(8, "INSUFFICIENT_MEMORY", "it does not fit")


def version(state: State, number: int = 1, **facts: Any) -> Version:
    now = datetime.now(UTC)
    return replace(
        Version("pocket", number, state, Source(repo_id="owner/pocket"), now, ARTIFACT), **facts
    )


def model(*versions: Version, **aliases: int) -> Model:
    return Model("pocket", versions, aliases)


def events(before: Model | None, after: Model | None) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    payloads.clear()

    def publish(payload: Any, correlation_id: str = "") -> None:
        payloads.append(payload)
        told.append((type(payload).__name__, correlation_id))

    publish_change(publish, before, after)
    return told


payloads: list[Any] = []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, State.AVAILABLE, "ModelRegistered"),
        (None, State.PULLING, None),
        (State.PULLING, State.AVAILABLE, "ModelPulled"),
        (State.PULLING, State.PULL_FAILED, "ModelPullFailed"),
        (State.PULL_FAILED, State.PULLING, None),
        (State.AVAILABLE, State.LOADING, None),
        (State.LOADING, State.READY, "ModelLoaded"),
        (State.READY, State.READY, None),
        (State.READY, State.LOADING, None),
        (State.LOADING, State.LOAD_FAILED, "ModelLoadFailed"),
        (State.READY, State.UNLOADING, None),
        (State.UNLOADING, State.AVAILABLE, "ModelUnloaded"),
    ],
)
def test_a_relevant_change_of_state_is_an_event(
    before: State | None, after: State, expected: str | None
) -> None:
    old = model(version(before)) if before else None
    assert events(old, model(version(after))) == ([(expected, "pocket@1")] if expected else [])


def test_events_have_the_properties_of_the_version() -> None:
    ready = Replica("e-1", "r-1", Phase.READY)
    loaded = version(State.READY, replicas=(ready,), desired_replicas=2)
    events(model(version(State.LOADING)), model(loaded))
    assert (payloads[0].ready_replicas, payloads[0].desired_replicas) == (1, 2)
    events(model(version(State.PULLING)), model(version(State.AVAILABLE)))
    assert (payloads[0].source, payloads[0].weights_bytes) == ("owner/pocket@", 20)
    events(model(version(State.LOADING)), model(version(State.LOAD_FAILED, failure=FAILURE)))
    assert payloads[0].failure.reason == "INSUFFICIENT_MEMORY"


def test_missing_versions_are_reported_as_deleted() -> None:
    one, two = version(State.AVAILABLE), version(State.AVAILABLE, 2)
    assert events(model(one, two), model(two)) == [("ModelDeleted", "pocket@1")]
    assert sorted(events(model(one, two, stable=1), None)) == [
        ("ModelDeleted", "pocket@1"),
        ("ModelDeleted", "pocket@2"),
    ]


def test_aliases_that_are_set_moved_and_removed() -> None:
    one = version(State.AVAILABLE)
    before, after = model(one, a=1, b=1, same=1), model(one, b=2, c=1, same=1)
    assert events(before, after) == [
        ("ModelAliasRemoved", "pocket:a"),
        ("ModelAliasSet", "pocket:b"),
        ("ModelAliasSet", "pocket:c"),
    ]
    removed, *changed = payloads
    assert (removed.model, removed.alias) == ("pocket", "a")
    assert [(each.alias, each.version) for each in changed] == [("b", 2), ("c", 1)]


def test_a_rejection_names_the_runtime_and_the_cause() -> None:
    published: list[Any] = []
    publish_rejection(
        lambda payload, correlation_id="": published.append((payload, correlation_id)),
        version(State.LOADING),
        "r-1",
        FAILURE,
    )
    [(event, correlation_id)] = published
    assert correlation_id == "pocket@1"
    assert (event.model, event.version, event.runtime_id) == ("pocket", 1, "r-1")
    assert (event.failure.code, event.failure.reason) == (8, "INSUFFICIENT_MEMORY")


def with_adapters(**digests: str) -> Model:
    adapters = {
        name: Adapter(
            model="pocket",
            name=name,
            digest=digest,
            directory=f"/adapters/{digest}",
            format="peft",
            rank=4,
            weights_bytes=10,
            modules=("self_attn.q_proj",),
            created_at=datetime.now(UTC),
        )
        for name, digest in digests.items()
    }
    return replace(model(version(State.AVAILABLE)), adapters=adapters)


def test_adapters_are_added_replaced_and_removed() -> None:
    one, two = with_adapters(french="a", german="b"), with_adapters(french="c", spanish="d")
    assert events(one, two) == [
        ("AdapterReplaced", "pocket:french"),
        ("AdapterRemoved", "pocket:german"),
        ("AdapterAdded", "pocket:spanish"),
    ]
    assert (payloads[0].digest, payloads[0].previous_digest) == ("c", "a")
    assert events(two, two) == []
    assert ("AdapterRemoved", "pocket:french") in events(two, None)

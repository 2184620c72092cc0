"""Domain objects as messages."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh_model import convert, paging
from mlxmesh_model.artifacts.progress import Progress, Step
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import (
    Artifact,
    Change,
    FailureRecord,
    Model,
    ModelKind,
    Phase,
    Replica,
    Source,
    Version,
)
from mlxmesh_model.replicas.convert import to_error
from mlxmesh_shared.errors import InsufficientMemory, InvalidArgument

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
ARTIFACT = Artifact("/m", "d" * 64, "llama", 7, 14, "bfloat16", 2048, 1024)


def version(number: int = 1, **changes) -> Version:
    return Version("pocket", number, State.AVAILABLE, Source("/m"), NOW, ARTIFACT, **changes)


def test_a_version():
    replicas = (Replica("e", "r", Phase.READY), Replica("f", "r", Phase.STARTING))
    assert convert.to_version(version(desired_replicas=2, replicas=replicas)) == pb.ModelVersion(
        version=1,
        state=pb.VERSION_STATE_AVAILABLE,
        source="/m",
        digest="d" * 64,
        architecture="llama",
        parameters=7,
        weights_bytes=14,
        dtype="bfloat16",
        context_tokens=2048,
        vocab_size=1024,
        desired_replicas=2,
        ready_replicas=1,
        create_time=Timestamp(seconds=int(NOW.timestamp())),
        kind=pb.MODEL_KIND_GENERATION,
        group_size=1,
    )


def test_a_version_that_embeds():
    artifact = replace(ARTIFACT, kind=ModelKind.EMBEDDING, dimensions=384)
    message = convert.to_version(replace(version(), artifact=artifact))
    assert (message.kind, message.dimensions) == (pb.MODEL_KIND_EMBEDDING, 384)


def test_every_kind_is_in_the_contract_and_a_version_without_files_has_none():
    assert {convert.from_kind(kind) for kind in pb.ModelKind.values()} == {"", *ModelKind}
    pulling = Version("p", 1, State.PULLING, Source("/m"), NOW)
    assert convert.to_version(pulling).kind == pb.MODEL_KIND_UNSPECIFIED


def test_every_state_but_deleted_is_in_the_contract():
    for state in set(State) - {State.DELETED}:
        message = convert.to_version(Version("p", 1, state, Source("/m"), NOW))
        assert message.state != pb.VERSION_STATE_UNSPECIFIED
        assert message.digest == ""


def test_only_one_version_but_the_same_default():
    model = Model("pocket", (version(1), version(2)), {"stable": 1})
    message = convert.to_model(model, only=model.versions[0])
    assert [v.version for v in message.versions] == [1]
    assert (message.default_version, dict(message.aliases)) == (2, {"stable": 1})


def test_changes():
    model = Model("pocket", (version(),))
    assert convert.to_change(Change(7, "pocket", model)).model == convert.to_model(model)
    gone = convert.to_change(Change(8, "pocket", None))
    assert (gone.sequence, gone.removed_name) == (8, "pocket")


def test_progress():
    step = Step("pocket", Progress(1, 2, "a.json"))
    assert convert.to_progress(step) == pb.PullModelResponse(
        name="pocket", done_bytes=1, total_bytes=2, file="a.json"
    )
    assert convert.to_progress(Step("p", Progress(), version())).version.version == 1


def test_failures_convert_back_to_their_error():
    error = to_error(FailureRecord.of(InsufficientMemory("4 of 3 GiB")))
    assert isinstance(error, InsufficientMemory)
    assert error.message == "4 of 3 GiB"


@given(st.text(min_size=1))
def test_page_tokens_round_trip(name):
    assert paging.from_page_token(paging.to_page_token(name)) == name


@given(st.text(min_size=1))
def test_other_texts_are_not_page_tokens(text):
    with pytest.raises(InvalidArgument) as caught:
        paging.from_page_token(text)
    assert caught.value.field == "page_token"


def test_an_empty_token_is_the_first_page():
    assert paging.from_page_token("") == ""

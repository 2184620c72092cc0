"""Versions that OpenAI-compatible servers answer for: registered, checked, switched on and off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh.model.v1 import policy_pb2, shadow_pb2, upstream_pb2
from mlxmesh_model.catalogue.models import Artifact
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.catalogue.upstream import Capability, Upstream
from mlxmesh_shared.errors import (
    FeatureNotSupported,
    IllegalState,
    InvalidArgument,
    ModelNotLoaded,
    NameInUse,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.openai_upstream import MODEL, FakeUpstream, Script, running_upstream
from tests.fakes.runtime import FakeRuntime

KEY = "sk-of-the-upstream"


@pytest.fixture
async def far() -> AsyncIterator[FakeUpstream]:
    async with running_upstream(KEY) as running:
        yield running


@pytest.fixture
def key(tmp_path: Path) -> str:
    (tmp_path / "key").write_text(KEY + "\n")
    return f"file:{tmp_path}/key"


def upstream(far: FakeUpstream, place: str, **fields) -> upstream_pb2.Upstream:
    return upstream_pb2.Upstream(**{"base_url": far.url, "model_id": MODEL, "key": place, **fields})


async def register(service, wanted: upstream_pb2.Upstream, name: str = "far"):
    request = pb.RegisterUpstreamRequest(name=name, upstream=wanted)
    return await service.stub.RegisterUpstream(request)


def is_ready(version: pb.ModelVersion) -> bool:
    return version.state == pb.VERSION_STATE_READY


def is_failed(version: pb.ModelVersion) -> bool:
    return version.state == pb.VERSION_STATE_FAILED


async def test_one_is_ready_once_its_check_succeeds_and_has_no_key(service, far, key) -> None:
    answered = await register(service, upstream(far, key, context_tokens=4096))
    assert answered.version == 1
    loaded = await service.load("far")
    assert is_ready(loaded)
    version = await service.version("far@1")
    assert (version.desired_replicas, version.ready_replicas) == (1, 1)
    assert (version.source, version.context_tokens) == (f"{far.url} {MODEL}", 4096)
    assert version.upstream.max_concurrent == 32
    assert list(version.upstream.capabilities) == [
        upstream_pb2.UPSTREAM_CAPABILITY_CHAT,
        upstream_pb2.UPSTREAM_CAPABILITY_TOOLS,
        upstream_pb2.UPSTREAM_CAPABILITY_JSON_SCHEMA,
    ]
    assert version.upstream.key == key
    assert KEY not in str(version)
    assert KEY.encode() not in (service.tmp_path / "model.db").read_bytes()


async def test_the_same_one_is_the_same_version_and_another_the_next(service, far, key) -> None:
    await register(service, upstream(far, key))
    assert (await register(service, upstream(far, key))).version == 1
    assert (await register(service, upstream(far, key, max_concurrent=2))).version == 2


async def test_a_failed_check_is_told_and_repeated(service, far, key) -> None:
    far.script = Script(models_status=503)
    await register(service, upstream(far, key))
    with pytest.raises(UpstreamUnavailable):
        await service.load("far")
    version = await service.version("far@1")
    assert is_failed(version)
    assert version.failure.reason == "UPSTREAM_UNAVAILABLE"
    assert version.retry_in_ms > 0
    far.script = Script()
    await service.until("far@1", is_ready)
    far.key = "another one"
    await service.until("far@1", is_failed)
    failed = await service.version("far@1")
    assert failed.failure.reason == "UPSTREAM_REFUSED"
    assert KEY not in failed.failure.message


async def test_a_missing_key_or_model_is_told(service, far, key, tmp_path) -> None:
    await register(service, upstream(far, f"file:{tmp_path}/none"), "keyless")
    with pytest.raises(IllegalState, match=f"{tmp_path}/none"):
        await service.load("keyless")
    await register(service, upstream(far, key, model_id="other"), "other")
    with pytest.raises(UpstreamRefused, match="does not exist"):
        await service.load("other")


async def test_it_is_switched_off_and_on(service, far, key) -> None:
    await register(service, upstream(far, key))
    await service.until("far@1", is_ready)
    unloaded = await service.stub.UnloadModel(pb.UnloadModelRequest(model="far"))
    assert unloaded.version.state == pb.VERSION_STATE_AVAILABLE
    assert unloaded.version.desired_replicas == 0
    with pytest.raises(ModelNotLoaded, match="mlxmesh load far@1"):
        await service.stub.RequestLoad(pb.RequestLoadRequest(name="far", version=1))
    await service.load("far")
    on = await service.stub.RequestLoad(pb.RequestLoadRequest(name="far", version=1))
    assert is_ready(on.version)
    with pytest.raises(IllegalState, match="unload it first"):
        await service.stub.DeleteModel(pb.DeleteModelRequest(model="far"))
    await service.stub.UnloadModel(pb.UnloadModelRequest(model="far"))
    await service.stub.DeleteModel(pb.DeleteModelRequest(model="far"))


async def test_what_engines_have_it_has_not(service, far, key) -> None:
    await register(service, upstream(far, key))
    with pytest.raises(InvalidArgument) as replicas:
        await service.load("far", replicas=2)
    assert replicas.value.field == "replicas"
    with pytest.raises(InvalidArgument) as profile:
        await service.load("far", profile="default")
    assert profile.value.field == "profile"
    for name, value in (("group_size", 2), ("group_split", "tensor")):
        with pytest.raises(InvalidArgument) as group:
            await service.load("far", **{name: value})
        assert group.value.field == name
    with pytest.raises(FeatureNotSupported, match="no tokenizer"):
        async for _ in service.stub.GetTokenizer(pb.GetTokenizerRequest(name="far", version=1)):
            pass


@pytest.mark.parametrize(("to", "given", "field"), [(1, 0, "to_version"), (2, 1, "from_version")])
async def test_it_has_no_shadows_and_is_none(service, far, key, to, given, field) -> None:
    await register(service, upstream(far, key))
    await service.register("far")
    request = shadow_pb2.StartShadowRequest(name="far", to_version=to, from_version=given)
    with pytest.raises(FeatureNotSupported) as caught:
        await service.shadows.StartShadow(request)
    assert caught.value.field == field


async def test_policies_and_runtimes_leave_it_alone(mesh, far, key) -> None:
    runtime = FakeRuntime()
    await mesh.host(runtime)
    service = await mesh.service()
    await register(service, upstream(far, key))
    await service.until("far@1", is_ready)
    policy = policy_pb2.ModelPolicy(min_replicas=3, max_replicas=5, idle_unload_s=1)
    await service.stub.SetModelPolicy(pb.SetModelPolicyRequest(name="far", policy=policy))
    await service.register()
    await service.load()
    version = await service.version("far@1")
    assert (version.desired_replicas, version.ready_replicas) == (1, 1)
    assert len(runtime.engines) == 1
    await service.stub.UnloadModel(pb.UnloadModelRequest(model="far"))


async def test_a_version_beside_local_ones_does_not_take_the_bare_name(mesh, far, key) -> None:
    await mesh.host()
    service = await mesh.service()
    await service.register("chat")
    await service.load("chat")
    assert (await register(service, upstream(far, key), "chat")).version == 2
    await service.until("chat@2", is_ready)
    assert (await service.model("chat")).default_version == 1
    alias = pb.SetAliasRequest(name="chat", alias="default", version=2)
    assert (await service.stub.SetAlias(alias)).model.default_version == 2


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"base_url": "ftp://host"}, "upstream.base_url"),
        ({"base_url": f"https://user:{KEY}@host/v1"}, "upstream.base_url"),
        ({"base_url": "http://host/v1?key=1"}, "upstream.base_url"),
        ({"base_url": "h" * 3000}, "upstream.base_url"),
        ({"model_id": ""}, "upstream.model_id"),
        ({"model_id": "a b"}, "upstream.model_id"),
        ({"model_id": "a?b"}, "upstream.model_id"),
        ({"model_id": "m" * 300}, "upstream.model_id"),
        ({"key": KEY}, "upstream.key"),
        ({"key": "file:relative"}, "upstream.key"),
        ({"capabilities": [0]}, "upstream.capabilities"),
        ({"capabilities": [99]}, "upstream.capabilities[0]"),
        ({"max_concurrent": 0}, "upstream.max_concurrent"),
        ({"max_concurrent": 10_001}, "upstream.max_concurrent"),
    ],
)
async def test_illegal_values_are_named_and_never_quoted(service, far, key, fields, field) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await register(service, upstream(far, key, **fields))
    assert caught.value.field == field
    assert KEY not in caught.value.message


async def test_the_name_of_an_ensemble_is_in_use(service, far, key) -> None:
    async with service.store.changing("team") as (session, _):
        from mlxmesh_model.catalogue import queries

        await queries.put_ensemble(session, "team", '{"fallback": {"models": ["far"]}}')
    with pytest.raises(NameInUse):
        await register(service, upstream(far, key), "team")


async def test_it_is_stored_as_it_was(database: DatabaseUrl) -> None:
    wanted = Upstream(
        "http://host/v1", "m", "env:KEY", (Capability.CHAT, Capability.LOGPROBS), 128, 7
    )
    store = await Store.open(database)
    try:
        await store.register_upstream("far", wanted)
        await store.register("far", Artifact("/m", "d" * 64, "llama", 1, 2, "float32", 8, 16))
        far, local = (await store.model("far")).versions
        assert (far.upstream, local.upstream) == (wanted, None)
        assert far.desired_replicas == 1
        assert await store.record_health(far, None)
        assert not await store.record_health(far, None)
        await store.set_desired_replicas(ModelReference("far", version=1), replicas=0)
        assert not await store.record_health(far, None)
    finally:
        await store.close()

"""Profiles over gRPC: revisions, loading with one, replacing replicas, templates."""

import asyncio

import pytest

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh.model.v1 import profile_pb2
from mlxmesh.runtime.v1 import runtime_pb2
from mlxmesh_model.catalogue.models import Artifact
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.profiles.profile import EngineProfile, ProfileReference
from mlxmesh_model.profiles.store import Profiles
from mlxmesh_shared.errors import (
    EngineFailed,
    IllegalState,
    InsufficientMemory,
    InvalidArgument,
    ModelNotFound,
    ProfileNotFound,
)
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.closing import Closing

SMALL = profile_pb2.EngineProfile(context_tokens=64, prefix_cache_bytes=0, dtype="float32")
ARTIFACT = Artifact("/models/pocket", "d" * 64, "llama", 2**40, 2**41, "4-bit", 4096, 1024)


async def set_profile(service, name="small", settings=SMALL) -> profile_pb2.Profile:
    request = profile_pb2.SetProfileRequest(name=name, settings=settings)
    return (await service.profiles.SetProfile(request)).profile


async def get(service, profile) -> profile_pb2.Profile:
    return (
        await service.profiles.GetProfile(profile_pb2.GetProfileRequest(profile=profile))
    ).profile


async def delete(service, name="small") -> None:
    await service.profiles.DeleteProfile(profile_pb2.DeleteProfileRequest(name=name))


async def template_of(service, **fields) -> str | None:
    request = pb.GetTokenizerRequest(name="pocket", version=1, **fields)
    files: dict[str, bytes] = {}
    async for piece in service.stub.GetTokenizer(request):
        files[piece.file_name] = files.get(piece.file_name, b"") + piece.data
    assert "tokenizer.json" in files
    template = files.get("chat_template.jinja")
    return None if template is None else template.decode()


async def test_equal_settings_are_one_revision_and_others_the_next(service):
    first = await set_profile(service)
    assert (first.name, first.revision, first.settings) == ("small", 1, SMALL)
    assert first.create_time.seconds > 0
    assert (await set_profile(service)).revision == 1
    larger = profile_pb2.EngineProfile(context_tokens=128)
    assert (await set_profile(service, settings=larger)).revision == 2
    assert (await set_profile(service)).revision == 3
    assert (await get(service, "small@2")).settings == larger
    assert (await get(service, "small")).revision == 3
    for unknown in ("small@4", "other"):
        with pytest.raises(ProfileNotFound, match=unknown):
            await get(service, unknown)


async def test_profiles_are_listed_in_pages_by_name(service):
    for name in ("c", "a", "B"):
        await set_profile(service, name)
    await set_profile(service, "a", profile_pb2.EngineProfile())
    listed, token = [], ""
    while True:
        request = profile_pb2.ListProfilesRequest(page_size=2, page_token=token)
        page = await service.profiles.ListProfiles(request)
        listed += [(profile.name, profile.revision) for profile in page.profiles]
        token = page.next_page_token
        if not token:
            break
    assert listed == [("B", 1), ("a", 2), ("c", 1)]


async def test_a_revision_number_never_comes_back(service):
    await set_profile(service)
    await delete(service)
    with pytest.raises(ProfileNotFound):
        await delete(service)
    with pytest.raises(ProfileNotFound):
        await get(service, "small")
    assert (await set_profile(service)).revision == 2


async def test_the_defaults_are_a_profile(service):
    defaults = await get(service, "default")
    assert (defaults.revision, defaults.settings) == (0, profile_pb2.EngineProfile())
    for call in (set_profile(service, "default"), delete(service, "default")):
        with pytest.raises(InvalidArgument):
            await call
    with pytest.raises(ProfileNotFound):
        await get(service, "default@1")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (profile_pb2.EngineProfile(dtype="int8"), "settings.dtype"),
        (profile_pb2.EngineProfile(context_tokens=0), "settings.context_tokens"),
        (profile_pb2.EngineProfile(kv_cache_bytes=1000), "settings.kv_cache_bytes"),
        (profile_pb2.EngineProfile(kv_cache_type="2bit"), "settings.kv_cache_type"),
        (profile_pb2.EngineProfile(max_running=2000), "settings.max_running"),
        (profile_pb2.EngineProfile(forward="fast"), "settings.forward"),
        (profile_pb2.EngineProfile(chat_template="{% if %}"), "settings.chat_template"),
        (profile_pb2.EngineProfile(chat_template="{{ a | nope }}"), "settings.chat_template"),
        (profile_pb2.EngineProfile(tool_format="nope"), "settings.tool_format"),
        (profile_pb2.EngineProfile(reasoning_format="nope"), "settings.reasoning_format"),
        (profile_pb2.EngineProfile(speculative="fast"), "settings.speculative"),
        (profile_pb2.EngineProfile(speculative="draft"), "settings.draft_model"),
        (profile_pb2.EngineProfile(draft_model="pocket"), "settings.draft_model"),
        (profile_pb2.EngineProfile(draft_model="pocket@1"), "settings.draft_model"),
        (profile_pb2.EngineProfile(max_adapters=65), "settings.max_adapters"),
        (profile_pb2.EngineProfile(adapter_bytes=1000), "settings.adapter_bytes"),
        (profile_pb2.EngineProfile(group_size=0), "settings.group_size"),
        (profile_pb2.EngineProfile(group_size=17), "settings.group_size"),
        (profile_pb2.EngineProfile(group_split="rows"), "settings.group_split"),
    ],
)
async def test_settings_that_are_refused_by_name(service, settings, field):
    with pytest.raises(InvalidArgument) as caught:
        await set_profile(service, settings=settings)
    assert caught.value.field == field


async def test_engines_start_with_the_settings_of_their_profile(mesh, service):
    host = await mesh.host()
    await service.register()
    await set_profile(service)
    await set_profile(service, settings=profile_pb2.EngineProfile(max_running=2))
    version = await service.load(profile="small@1")
    assert (version.profile, version.profile_revision) == ("small", 1)
    assert version.context_tokens == 64
    [options] = host.runtime.options.values()
    assert options == runtime_pb2.EngineOptions(
        context_tokens=64, prefix_cache_bytes=0, dtype="float32"
    )
    assert (await get(service, "small")).used_by == ["pocket@1"]


async def test_engines_get_the_directory_of_their_draft_model(mesh, service):
    host = await mesh.host()
    await service.register()
    draft = profile_pb2.EngineProfile(speculative="draft", draft_model="pocket@1")
    await set_profile(service, settings=draft)
    await service.load(profile="small")
    [options] = host.runtime.options.values()
    directory = str(service.tmp_path / "pocket-8")
    assert options == runtime_pb2.EngineOptions(speculative="draft", draft_model_dir=directory)


@pytest.mark.parametrize("draft_model", ["other@1", "pocket@2"])
async def test_an_unknown_draft_model_is_not_found(service, draft_model):
    await service.register()
    draft = profile_pb2.EngineProfile(speculative="draft", draft_model=draft_model)
    with pytest.raises(ModelNotFound) as caught:
        await set_profile(service, settings=draft)
    assert caught.value.field == "settings.draft_model"


async def test_a_version_does_not_load_without_its_draft_model(mesh, service):
    await mesh.host()
    await service.register()
    await service.register("draft")
    draft = profile_pb2.EngineProfile(speculative="draft", draft_model="draft@1")
    await set_profile(service, settings=draft)
    await service.stub.DeleteModel(pb.DeleteModelRequest(model="draft"))
    with pytest.raises(ModelNotFound, match="draft@1"):
        await service.load(profile="small")


async def test_a_load_without_a_profile_keeps_that_of_the_last(mesh, service):
    host = await mesh.host()
    await service.register()
    await set_profile(service)
    await service.load(profile="small")
    await service.stub.UnloadModel(pb.UnloadModelRequest(model="pocket"))
    await set_profile(service, settings=profile_pb2.EngineProfile(max_running=2))
    version = await service.load(replicas=2)
    assert (version.profile, version.profile_revision) == ("small", 1)
    assert [each.context_tokens for each in host.runtime.options.values()] == [64] * 3


async def test_the_defaults_take_the_place_of_a_profile(mesh, service):
    host = await mesh.host()
    await service.register()
    own = (await service.version()).context_tokens
    await set_profile(service)
    await service.load(profile="small")
    version = await service.load(profile="default")
    assert (version.profile, version.profile_revision, version.context_tokens) == ("", 0, own)
    assert list(host.runtime.options.values())[-1] == runtime_pb2.EngineOptions()
    await delete(service)


async def test_a_profile_in_use_is_not_removed(mesh, service):
    await mesh.host()
    await service.register()
    await set_profile(service)
    await service.load(profile="small")
    with pytest.raises(IllegalState, match=r"pocket@1 uses profile small; load it with another"):
        await delete(service)
    await service.stub.UnloadModel(pb.UnloadModelRequest(model="pocket"))
    with pytest.raises(IllegalState):
        await delete(service)
    await service.stub.DeleteModel(pb.DeleteModelRequest(model="pocket"))
    await delete(service)


@pytest.mark.parametrize(
    ("profile", "error"), [("other", ProfileNotFound), ("small@9", ProfileNotFound)]
)
async def test_an_unknown_profile_changes_nothing(mesh, service, profile, error):
    host = await mesh.host()
    await service.register()
    await set_profile(service)
    with pytest.raises(error):
        await service.load(profile=profile)
    version = await service.version()
    assert (version.desired_replicas, version.profile, host.runtime.starts) == (0, "", [])


async def test_a_context_beyond_the_models_own_is_refused_before_anything_starts(mesh, service):
    host = await mesh.host()
    await service.register()
    own = (await service.version()).context_tokens
    large = profile_pb2.EngineProfile(context_tokens=own + 1)
    await set_profile(service, settings=large)
    with pytest.raises(InvalidArgument, match=f"knows at most {own:,}") as caught:
        await service.load(profile="small")
    assert caught.value.field == "profile"
    assert host.runtime.starts == []


async def test_a_new_replica_is_ready_before_its_predecessor_stops(mesh, service):
    host = await mesh.host()
    await service.register()
    await set_profile(service)
    await service.load(replicas=2)
    before = set(host.runtime.engines)
    host.runtime.hold = True
    loading = asyncio.create_task(service.load(replicas=2, profile="small"))
    while len(host.runtime.starts) < 3:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # passes in which nothing may happen: the replacement is not ready
    assert (len(host.runtime.starts), host.runtime.stops) == (3, [])
    assert (await service.version()).ready_replicas == 2
    host.runtime.hold = False
    host.runtime.set_state(host.runtime.starts[-1], runtime_pb2.ENGINE_STATE_READY)
    await loading
    await service.until("pocket@1", lambda version: len(host.runtime.engines) == 2)
    assert not before & set(host.runtime.engines)
    assert set(host.runtime.stops) == before
    # Never more than one replica above what is desired.
    assert len(host.runtime.starts) == 4


async def test_a_load_ends_when_the_only_replica_is_replaced(mesh, service):
    host = await mesh.host()
    await service.register()
    await set_profile(service)
    await service.load()
    host.runtime.hold = True
    loading = asyncio.create_task(service.load(profile="small"))
    while len(host.runtime.starts) < 2:
        await asyncio.sleep(0.01)
    # The number of ready replicas stays 1: this one is ready as the other becomes surplus.
    host.runtime.set_state(host.runtime.starts[-1], runtime_pb2.ENGINE_STATE_READY)
    async with asyncio.timeout(30):
        await loading
    host.runtime.hold = False


async def test_without_room_the_predecessor_stops_first(mesh, service):
    host = await mesh.host()
    await service.register()
    await set_profile(service)
    await service.load()
    [before] = host.runtime.engines
    host.runtime.refuse_with = InsufficientMemory("512 of 300 MiB")
    host.runtime.hold = True  # the drain takes a while
    loading = asyncio.create_task(service.load(profile="small"))
    while not host.runtime.stops:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)  # passes in which there is still no room
    assert not loading.done()
    host.runtime.refuse_with, host.runtime.hold = None, False
    assert (await loading).ready_replicas == 1
    assert host.runtime.stops == [before]


async def test_settings_that_do_not_work_leave_the_old_replicas(mesh, service):
    host = await mesh.host()
    await service.register()
    await set_profile(service)
    await service.load()
    [before] = host.runtime.engines
    host.runtime.hold = True
    loading = asyncio.create_task(service.load(profile="small"))
    while len(host.runtime.starts) < 2:
        await asyncio.sleep(0.01)
    host.runtime.fail(host.runtime.starts[-1])
    with pytest.raises(EngineFailed):
        await loading
    host.runtime.hold = False
    assert (await service.version()).ready_replicas == 1
    assert before not in host.runtime.stops
    version = await service.load(profile="default")
    assert version.ready_replicas == 1
    await service.until("pocket@1", lambda version: set(host.runtime.engines) == {before})


async def test_formats_and_a_template_need_no_other_engine(mesh, service):
    host = await mesh.host()
    await service.register()
    await service.load()
    assert await template_of(service) is None
    settings = profile_pb2.EngineProfile(
        tool_format="json", reasoning_format="think", chat_template="{{ messages[0].content }}ß"
    )
    await set_profile(service, "chatty", settings)
    version = await service.load(profile="chatty")
    assert (version.tool_format, version.reasoning_format) == ("json", "think")
    assert await template_of(service) == settings.chat_template
    assert len(host.runtime.starts) == 1
    # What was set for the version itself comes first.
    request = pb.SetOutputFormatRequest(name="pocket", tool_format="hermes")
    await service.stub.SetOutputFormat(request)
    version = await service.version()
    assert (version.tool_format, version.reasoning_format) == ("hermes", "think")


async def test_the_template_of_a_revision_can_be_had_when_the_version_has_another(mesh, service):
    await mesh.host()
    await service.register()
    for text in ("one", "two"):
        await set_profile(service, "p", profile_pb2.EngineProfile(chat_template=text))
    await service.load(profile="p@2")
    assert await template_of(service) == "two"
    assert await template_of(service, profile="p@1") == "one"
    with pytest.raises(ProfileNotFound):
        await template_of(service, profile="p@3")


async def test_a_profile_survives_a_restart(mesh, service):
    host = await mesh.host()
    await service.register()
    await set_profile(service)
    await service.load(profile="small")
    service = await mesh.service()
    await asyncio.sleep(0.3)  # passes in which nothing may be replaced
    version = await service.version()
    assert (version.profile, version.context_tokens, version.ready_replicas) == ("small", 64, 1)
    assert (len(host.runtime.starts), host.runtime.stops) == (1, [])


async def test_both_databases_keep_profiles(closing: Closing, database: DatabaseUrl) -> None:
    store = closing(await Store.open(database))
    profiles = Profiles(store.transactions)
    settings = EngineProfile(context_tokens=64, chat_template="{{ 'ä' }}", prefix_cache_bytes=2**50)
    one = await profiles.set("small", settings)
    assert (one.revision, one.settings) == (1, settings)
    assert one.created_at is not None
    assert one.created_at.tzinfo is not None
    await profiles.set("small", EngineProfile())
    await store.register("pocket", ARTIFACT)
    version = await store.set_desired_replicas(
        ModelReference("pocket"), replicas=2, profile=ProfileReference("small", 1)
    )
    assert version.profile_label == "small@1"
    assert version.settings == settings.without_template()
    assert (await profiles.profile(ProfileReference("small"))).used_by == ("pocket@1",)
    with pytest.raises(IllegalState):
        await profiles.delete("small")
    cleared = await store.set_desired_replicas(
        ModelReference("pocket"), replicas=2, profile=ProfileReference("default")
    )
    assert cleared.profile_label == ""
    await profiles.delete("small")
    assert await profiles.profiles(after="", limit=10) == []
    assert (await profiles.set("small", settings)).revision == 3


async def test_two_services_that_set_a_profile_make_one_revision_each(
    database: DatabaseUrl,
) -> None:
    stores = [await Store.open(database) for _ in range(2)]
    both = [Profiles(store.transactions) for store in stores]
    made = await asyncio.gather(
        *(both[i % 2].set("p", EngineProfile(max_running=i + 1)) for i in range(10))
    )
    assert sorted(profile.revision for profile in made) == list(range(1, 11))
    for store in stores:
        await store.close()

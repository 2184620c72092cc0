"""Shadows in both databases, and over gRPC."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mlxmesh.model.v1 import shadow_pb2 as pb
from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_model.catalogue.models import Artifact
from mlxmesh_model.catalogue.routing import Policy
from mlxmesh_model.catalogue.routing import Shadow as Route
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.shadows.shadow import MAX_RUNNING, Batch, DropReason, Pair, Plan
from mlxmesh_model.shadows.store import MAX_ENDED, Shadows
from mlxmesh_shared.errors import IllegalState, InvalidArgument, ModelNotFound, ShadowNotFound
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.runtime import FakeRuntime
from tests.integration.model.conftest import Mesh, ModelService

ARTIFACT = Artifact("/models/pocket", "d" * 64, "llama", 8, 8, "4-bit", 4096, 1024)
PLAN = Plan("pocket", to_version=2)
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def pair(number: int = 1, **changes: object) -> Pair:
    made = Pair(
        request_id=f"r-{number}",
        from_version=1,
        time=NOW + timedelta(seconds=number),
        equal=False,
        first_difference=number,
        edit_distance=0.25,
        primary_tokens=30,
        shadow_tokens=40,
        primary_ttft_ms=10.5,
        shadow_ttft_ms=12.5,
        primary_tokens_per_second=100.0,
        shadow_tokens_per_second=90.0,
    )
    return replace(made, **changes)


@pytest.fixture
async def store(database: DatabaseUrl) -> AsyncIterator[Store]:
    store = await Store.open(database)
    for number in range(1, MAX_RUNNING + 4):
        await store.register("pocket", replace(ARTIFACT, digest=f"{number:064x}"))
        await store.set_desired_replicas(ModelReference("pocket", number), replicas=1)
    yield store
    await store.close()


@pytest.fixture
def shadows(store: Store) -> Shadows:
    return Shadows(store)


async def test_a_started_shadow_belongs_to_its_model_until_it_ends(
    store: Store, shadows: Shadows
) -> None:
    before = await store.sequence()
    run = await shadows.start(Plan("pocket", 2, from_version=1, percent=2.5))
    model = await store.model("pocket")
    assert model.shadows == (Route(run.shadow_id, 1, 2, 2.5),)
    [change] = await store.changes(before)
    assert change.model == model
    stopped = await shadows.stop(run.shadow_id)
    assert stopped.ended_at is not None
    assert (await store.model("pocket")).shadows == ()
    assert await store.sequence() == before + 2


async def test_a_version_has_one_shadow_at_a_time(shadows: Shadows) -> None:
    run = await shadows.start(PLAN)
    with pytest.raises(IllegalState, match=f"mlxmesh shadow stop {run.shadow_id}"):
        await shadows.start(replace(PLAN, from_version=1))
    await shadows.start(replace(PLAN, to_version=3))
    await shadows.stop(run.shadow_id)
    await shadows.start(PLAN)


async def test_an_id_starts_a_shadow_once(shadows: Shadows) -> None:
    run = await shadows.start(PLAN, "mine")
    assert await shadows.start(PLAN, "mine") == run
    with pytest.raises(IllegalState, match="another plan"):
        await shadows.start(replace(PLAN, percent=20), "mine")


@pytest.mark.parametrize(
    ("plan", "error", "field"),
    [
        (Plan("absent", 2), ModelNotFound, "name"),
        (Plan("pocket", 99), ModelNotFound, "to_version"),
        (Plan("pocket", 2, 99), ModelNotFound, "from_version"),
        (Plan("pocket", 2, 2), InvalidArgument, "from_version"),
    ],
)
async def test_what_cannot_be_repeated_is_refused(
    shadows: Shadows, plan: Plan, error: type[ModelNotFound], field: str
) -> None:
    with pytest.raises(error) as refused:
        await shadows.start(plan)
    assert refused.value.field == field


async def test_the_number_of_shadows_of_a_model_is_bounded(shadows: Shadows) -> None:
    for number in range(2, MAX_RUNNING + 2):
        await shadows.start(Plan("pocket", number))
    with pytest.raises(IllegalState, match="stop one first"):
        await shadows.start(Plan("pocket", MAX_RUNNING + 2))


async def test_a_version_must_be_loaded_or_loaded_on_demand(store: Store, shadows: Shadows) -> None:
    await store.register("cold", ARTIFACT)
    await store.register("cold", replace(ARTIFACT, digest="e" * 64))
    plan = Plan("cold", 2)
    with pytest.raises(IllegalState, match="mlxmesh load cold@2"):
        await shadows.start(plan)
    await store.set_policy("cold", Policy(load_on_demand=True))
    await shadows.start(plan)


async def test_a_version_with_a_shadow_is_not_deleted(store: Store, shadows: Shadows) -> None:
    await store.register("cold", ARTIFACT)
    await store.set_policy("cold", Policy(load_on_demand=True))
    run = await shadows.start(Plan("cold", 1))
    with pytest.raises(IllegalState, match=run.shadow_id):
        await store.delete(ModelReference("cold"))
    await shadows.stop(run.shadow_id)
    await store.delete(ModelReference("cold"))
    assert (await shadows.report(run.shadow_id)).run.shadow_id == run.shadow_id


async def test_a_batch_is_recorded_once(shadows: Shadows) -> None:
    run = await shadows.start(PLAN)
    batch = Batch("g-1", 1, [pair(1), pair(2, equal=True)], {DropReason.NO_ROOM: 4})
    for _ in range(3):
        await shadows.record(run.shadow_id, batch)
    await shadows.record(run.shadow_id, Batch("g-2", 1, [pair(3)]))
    report = await shadows.report(run.shadow_id)
    assert (report.tally.compared, report.tally.equal) == (3, 1)
    assert report.tally.drops == {DropReason.NO_ROOM: 4}
    assert list(report.pairs) == [pair(3), pair(2, equal=True), pair(1)]


async def test_all_pairs_count_and_the_latest_are_kept(store: Store) -> None:
    shadows = Shadows(store, max_pairs=5)
    run = await shadows.start(PLAN)
    await shadows.record(run.shadow_id, Batch("g", 1, [pair(n) for n in range(1, 4)]))
    await shadows.record(run.shadow_id, Batch("g", 2, [pair(n) for n in range(4, 20)]))
    await shadows.record(run.shadow_id, Batch("g", 3, [pair(20)]))
    report = await shadows.report(run.shadow_id)
    assert report.tally.compared == 20
    assert [one.request_id for one in report.pairs] == [f"r-{n}" for n in (20, 19, 18, 17, 16)]


async def test_a_full_batch_is_recorded(shadows: Shadows) -> None:
    run = await shadows.start(PLAN)
    await shadows.record(run.shadow_id, Batch("g", 1, [pair(n) for n in range(1, 1001)]))
    assert len((await shadows.report(run.shadow_id)).pairs) == 1000


async def test_pairs_that_arrive_after_the_end_still_count(shadows: Shadows) -> None:
    run = await shadows.start(PLAN)
    await shadows.stop(run.shadow_id)
    await shadows.record(run.shadow_id, Batch("g", 1, [pair()]))
    assert (await shadows.report(run.shadow_id)).tally.compared == 1
    with pytest.raises(IllegalState, match="has ended"):
        await shadows.stop(run.shadow_id)


async def test_an_unknown_shadow_is_not_found(shadows: Shadows) -> None:
    for call in (shadows.stop("absent"), shadows.report("absent")):
        with pytest.raises(ShadowNotFound):
            await call
    with pytest.raises(ShadowNotFound):
        await shadows.record("absent", Batch("g", 1))


async def test_instances_that_are_gone_are_forgotten(store: Store) -> None:
    now = NOW

    def clock() -> datetime:
        return now

    shadows = Shadows(store, clock=clock)
    run = await shadows.start(PLAN)
    await shadows.record(run.shadow_id, Batch("old", 1))
    now = NOW + timedelta(days=8)
    await shadows.record(run.shadow_id, Batch("new", 1))
    found = await store.transactions.read(
        lambda session: session.fetch("SELECT instance_id FROM shadow_batches")
    )
    assert [row["instance_id"] for row in found] == ["new"]


async def test_the_oldest_that_ended_are_removed_with_what_they_found(shadows: Shadows) -> None:
    running = await shadows.start(Plan("pocket", 3))
    first = await shadows.start(PLAN)
    await shadows.record(first.shadow_id, Batch("g", 1, [pair()]))
    await shadows.stop(first.shadow_id)
    for _ in range(MAX_ENDED):
        await shadows.stop((await shadows.start(PLAN)).shadow_id)
    await shadows.start(PLAN)
    with pytest.raises(ShadowNotFound):
        await shadows.report(first.shadow_id)
    await shadows.report(running.shadow_id)
    found = await shadows.page(limit=1000)
    assert len(found) == MAX_ENDED + 2


async def test_shadows_are_listed_by_pages_newest_first(shadows: Shadows) -> None:
    started = [await shadows.start(Plan("pocket", number)) for number in (2, 3, 4)]
    first = await shadows.page(limit=2)
    rest = await shadows.page(limit=2, before=first[-1].number)
    assert [*first, *rest] == started[::-1]
    assert await shadows.page(model="other", limit=10) == []
    assert len(await shadows.page(model="pocket", limit=10)) == 3


# Over gRPC.


@pytest.fixture
async def loaded(mesh: Mesh) -> ModelService:
    await mesh.host(FakeRuntime())
    service = await mesh.service()
    for rows in (8, 16):
        await service.register(rows=rows)
    await service.load("pocket@2")
    return service


async def test_a_shadow_over_grpc(mesh: Mesh, loaded: ModelService) -> None:
    stub = loaded.shadows
    started = await stub.StartShadow(pb.StartShadowRequest(name="pocket", to_version=2))
    shadow_id = started.shadow.shadow_id
    assert (started.shadow.percent, started.shadow.HasField("end_time")) == (10, False)
    [shadow] = (await loaded.model()).shadows
    assert (shadow.shadow_id, shadow.to_version, shadow.percent) == (shadow_id, 2, 10)
    sent = [
        pb.ShadowPair(
            request_id=f"r-{number}",
            from_version=1,
            equal=number % 2 == 0,
            first_difference=number,
            edit_distance=0.5,
            primary_tokens=10,
            shadow_tokens=12,
            primary_ttft_ms=20 + number,
            shadow_ttft_ms=30 + number,
            primary_tokens_per_second=100,
            shadow_tokens_per_second=90,
        )
        for number in range(200)
    ]
    drops: dict[int, int] = {pb.SHADOW_DROP_REASON_NO_ROOM: 3, pb.SHADOW_DROP_REASON_TIMEOUT: 1}
    request = pb.RecordShadowPairsRequest(
        shadow_id=shadow_id, instance_id="g", batch=1, pairs=sent, drops=drops
    )
    for _ in range(2):
        await stub.RecordShadowPairs(request)
    report = await stub.GetShadowReport(pb.GetShadowReportRequest(shadow_id=shadow_id))
    assert (report.compared, report.equal, dict(report.drops)) == (200, 100, drops)
    assert (report.mean_edit_distance, report.median_first_difference) == (0.5, 100)
    assert [one.request_id for one in report.pairs] == [f"r-{n}" for n in range(199, 179, -1)]
    found = {one.metric: one for one in report.differences}
    assert list(found) == ["ttft_ms", "tokens_per_second", "completion_tokens"]
    ttft = found["ttft_ms"]
    assert ttft.mean_difference == pytest.approx(10)
    assert ttft.shadow_mean - ttft.primary_mean == pytest.approx(10)
    assert 9 < ttft.lower <= ttft.mean_difference <= ttft.upper < 11
    stopped = await stub.StopShadow(pb.StopShadowRequest(shadow_id=shadow_id))
    assert stopped.shadow.HasField("end_time")
    listed = await stub.ListShadows(pb.ListShadowsRequest())
    assert [one.shadow_id for one in listed.shadows] == [shadow_id]
    assert mesh.events[-2:] == [
        events.ShadowStarted(shadow_id=shadow_id, model="pocket", to_version=2, percent=10),
        events.ShadowStopped(
            shadow_id=shadow_id, model="pocket", to_version=2, compared=200, equal=100, dropped=4
        ),
    ]


async def test_a_report_may_have_no_pairs(loaded: ModelService) -> None:
    stub = loaded.shadows
    started = await stub.StartShadow(pb.StartShadowRequest(name="pocket", to_version=2))
    shadow_id = started.shadow.shadow_id
    request = pb.RecordShadowPairsRequest(
        shadow_id=shadow_id, instance_id="g", batch=1, pairs=[pb.ShadowPair(request_id="r")]
    )
    await stub.RecordShadowPairs(request)
    report = await stub.GetShadowReport(pb.GetShadowReportRequest(shadow_id=shadow_id, pairs=0))
    assert (report.compared, list(report.pairs)) == (1, [])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"drops": {99: 1}}, "drops[99]"),
        ({"pairs": [pb.ShadowPair(primary_ttft_ms=float("inf"))]}, "pairs[0].primary_ttft_ms"),
        ({"pairs": [pb.ShadowPair(shadow_ttft_ms=float("nan"))]}, "pairs[0].shadow_ttft_ms"),
        ({"pairs": [pb.ShadowPair(edit_distance=1.5)]}, "pairs[0].edit_distance"),
    ],
)
async def test_figures_that_are_none_are_refused(
    loaded: ModelService, changes: dict[str, object], field: str
) -> None:
    started = await loaded.shadows.StartShadow(pb.StartShadowRequest(name="pocket", to_version=2))
    request = pb.RecordShadowPairsRequest(
        shadow_id=started.shadow.shadow_id,
        instance_id="g",
        batch=1,
        **changes,  # pyright: ignore[reportArgumentType]
    )
    with pytest.raises(InvalidArgument) as refused:
        await loaded.shadows.RecordShadowPairs(request)
    assert refused.value.field == field


async def test_a_page_token_must_be_one_of_ours(loaded: ModelService) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await loaded.shadows.ListShadows(pb.ListShadowsRequest(page_token="x"))
    assert refused.value.field == "page_token"

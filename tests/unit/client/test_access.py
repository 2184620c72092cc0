"""Pages, groups and times of the access methods."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_client import InvalidArgument, MeshClient
from tests.fakes.access_service import FakeAccess, names, running_access

PASSWORD = "long enough"


@pytest.fixture
async def fake() -> FakeAccess:
    return FakeAccess(max_page=2)


@pytest.fixture
async def address(fake: FakeAccess) -> AsyncIterator[str]:
    async with running_access(fake) as address:
        yield address


@pytest.fixture
async def client(address: str) -> AsyncIterator[MeshClient]:
    """A client of a mesh without users."""
    async with MeshClient(address, api_key="") as client:
        yield client


@pytest.fixture
async def admin(address: str, client: MeshClient) -> AsyncIterator[MeshClient]:
    """The client of its first user, in a session."""
    await client.access.create_user("ada", password=PASSWORD, role="admin")
    tokens = await client.access.sign_in("ada", PASSWORD)
    async with MeshClient(address, api_key=tokens.access_token) as client:
        yield client


async def test_lists_are_read_page_by_page(fake: FakeAccess, admin: MeshClient) -> None:
    for number in range(1, 5):
        await admin.access.create_user(f"u{number}", kind="service_account")
    fake.usage = [pb.UsageRow(user=f"u{number}") for number in range(5)]

    assert names(await admin.access.list_users()) == ["ada", "u1", "u2", "u3", "u4"]
    assert [row.user for row in await admin.access.query_usage(group_by=["user"])] == [
        "u0", "u1", "u2", "u3", "u4",
    ]  # fmt: skip
    assert len([entry async for entry in admin.access.audit_entries()]) == len(fake.audit)


async def test_a_usage_query_names_groups_times_and_filters(
    fake: FakeAccess, client: MeshClient
) -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    await client.access.query_usage(
        group_by=["key", "model", "day"], start=start, user="ada", model="pocket"
    )
    (query,) = fake.usage_queries
    assert list(query.group_by) == [
        pb.USAGE_GROUP_KEY,
        pb.USAGE_GROUP_MODEL,
        pb.USAGE_GROUP_DAY,
    ]
    assert getattr(query, "from").ToDatetime(UTC) == start
    assert not query.HasField("to")
    assert (query.user, query.model, query.key_id) == ("ada", "pocket", "")


@pytest.mark.parametrize("word", ["week", "", "KEY"])
async def test_an_unknown_group_is_refused(client: MeshClient, word: Any) -> None:
    with pytest.raises(InvalidArgument, match="key or user or team") as caught:
        await client.access.query_usage(group_by=[word])
    assert caught.value.field == "group_by"


async def test_signing_in_sends_no_key(fake: FakeAccess, admin: MeshClient) -> None:
    fake.authorizations.clear()
    tokens = await admin.access.sign_in("ada", PASSWORD)
    tokens = await admin.access.refresh_session(tokens.refresh_token)
    await admin.access.sign_out(tokens.refresh_token)
    await admin.access.sign_in_options()
    assert fake.authorizations == [""] * 4

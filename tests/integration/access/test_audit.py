"""The audit log: every change with its actor and target, in both kinds of database."""

from __future__ import annotations

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_access import audit_log
from mlxmesh_access.clock import DAY_MS
from tests.integration.access.conftest import PASSWORD, Service, Services

ADMIN = "spiffe://mlxmesh/admin"


async def entries(service: Service, **fields: object) -> list[tuple[str, str, str, str]]:
    found = (await service.admin.ListAuditEntries(**fields)).entries
    return [(entry.actor, entry.action, entry.target, entry.details) for entry in found]


async def test_every_change_is_recorded_with_who_and_what(services: Services) -> None:
    service, _ = await services.start(sign_up=True)
    await service.add_users("ada", team="blue")
    ada = service.user("ada")
    key_id = (await ada.CreateKey(name="laptop")).key.key_id
    await service.admin.UpdateUser(
        name="ada", role=pb.ACCESS_ROLE_ADMIN, team="", password="another password"
    )
    subject = pb.QuotaSubject(key_id=key_id)
    await service.admin.SetQuota(subject=subject, limits=pb.QuotaLimits(tokens_per_day=7))
    await service.admin.DeleteQuota(subject=subject)
    await ada.RevokeKey(key_id=key_id)
    await service.nobody.SignUp(name="eve", password=PASSWORD)
    await service.admin.DeleteUser(name="ada")
    assert await entries(service) == [
        (ADMIN, "user.deleted", "user:ada", ""),
        ("user:eve", "user.signed_up", "user:eve", ""),
        ("user:ada", "key.revoked", f"key:{key_id}", ""),
        (ADMIN, "quota.deleted", f"quota:key:{key_id}", ""),
        (ADMIN, "quota.set", f"quota:key:{key_id}", "tokens_per_day 7"),
        (ADMIN, "user.changed", "user:ada", "role member -> admin, team blue -> none, password"),
        ("user:ada", "key.created", f"key:{key_id}", "of user:ada, role member"),
        (ADMIN, "user.created", "user:ada", "person, role member, team blue"),
        (ADMIN, "user.created", "user:root", "person, role admin"),
    ]
    [newest] = (await service.admin.ListAuditEntries(page_size=1)).entries
    assert newest.time.ToMilliseconds() == service.clock.now_ms


async def test_what_fails_is_no_change(service: Service) -> None:
    await service.add_users("ada")
    before = await entries(service)
    revision = await service.access.database.revision()
    for call in (
        service.admin.DeleteUser(name="root"),
        service.admin.UpdateUser(name="root", state=pb.USER_STATE_DISABLED),
        service.user("ada").CreateKey(name="k", role=pb.ACCESS_ROLE_ADMIN),
    ):
        try:
            await call
        except Exception:  # noqa: BLE001 - which one is tested elsewhere
            continue
        raise AssertionError("it did not fail")
    assert await entries(service) == before
    assert await service.access.database.revision() == revision


async def test_entries_are_listed_by_actor_and_in_pages(service: Service) -> None:
    await service.add_users("ada", "bob")
    for name in ("ada", "bob", "ada"):
        await service.user(name).CreateKey(name="k")
    assert [actor for actor, *_ in await entries(service, actor="user:ada")] == ["user:ada"] * 2
    found: list[pb.AuditEntry] = []
    token = ""
    while True:
        page = await service.admin.ListAuditEntries(actor="user:ada", page_size=1, page_token=token)
        found += page.entries
        token = page.next_page_token
        if not token:
            break
    assert len(found) == 2


async def test_old_entries_are_removed(services: Services) -> None:
    service, _ = await services.start(audit_retention_days=10)
    await service.add_users()
    service.clock.advance(9 * DAY_MS / 1000)
    await service.admin.CreateUser(name="ada", password=PASSWORD)
    await service.access.maintenance.prune()
    assert len(await entries(service)) == 2
    service.clock.advance(2 * DAY_MS / 1000)
    await service.access.maintenance.prune()
    assert [target for _, _, target, _ in await entries(service)] == ["user:ada"]


async def test_entries_beyond_the_bound_are_removed(sqlite_service: Service) -> None:
    service = sqlite_service
    await service.add_users("ada", "bob")
    async with service.access.database.transactions.write() as session:
        await session.fetch(
            "UPDATE counters SET value = $1 WHERE name = 'audit'", audit_log.MAX_ENTRIES + 2
        )
    await service.access.maintenance.prune()
    assert [target for _, _, target, _ in await entries(service)] == ["user:bob"]

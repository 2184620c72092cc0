"""Setting, listing and leasing quotas."""

from collections.abc import Sequence
from functools import partial

from mlxmesh_access.accounts import key_rows, rules, user_rows
from mlxmesh_access.accounts.acting import changing
from mlxmesh_access.accounts.keys import existing_key
from mlxmesh_access.accounts.users import existing_user
from mlxmesh_access.database import AccessDatabase
from mlxmesh_access.quotas import quota_rows
from mlxmesh_access.quotas.models import LimitId, LimitKind, Limits, Quota, Subject, SubjectKind
from mlxmesh_access.quotas.slices import SHORT_VALID_MS, Grant, Request, Spending, lease
from mlxmesh_access.quotas.windows import window_of
from mlxmesh_shared.errors import QuotaNotFound
from mlxmesh_shared.rpc.caller import ForwardedCaller as Caller
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

_UNLIMITED_KEYS = 2**31


class Quotas:
    """The quotas, and the slices that gateways hold of them."""

    def __init__(self, database: AccessDatabase) -> None:
        """Uses the database, which its caller closes."""
        self._database = database

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    @uncancellable
    async def set(self, caller: Caller, subject: Subject, limits: Limits) -> Quota:
        """Sets a subject's quota; what was used of the previous one stays used.

        Raises: PermissionDenied, UserNotFound, KeyNotFound.
        """
        rules.require_admin(caller)
        async with changing(self._database, caller) as change:
            await _check_exists(change.session, subject)
            await quota_rows.put_limits(change.session, subject, limits)
            await change.audit("quota.set", f"quota:{subject}", str(limits))
            spending = await quota_rows.find_spending(change.session, [subject])
        return _quota(subject, limits, spending, change.now_ms)

    @uncancellable
    async def delete(self, caller: Caller, subject: Subject) -> None:
        """Removes a subject's quota. Raises: PermissionDenied, QuotaNotFound."""
        rules.require_admin(caller)
        async with changing(self._database, caller) as change:
            if not await quota_rows.delete_limits(change.session, subject):
                raise _not_found(subject)
            await change.audit("quota.deleted", f"quota:{subject}")

    @uncancellable
    async def lease(
        self, gateway_id: str, wanted: Sequence[tuple[LimitId, Request]]
    ) -> list[Grant]:
        """Leases slices to a gateway, in the order of what it wants.

        A limit that does not exist grants all that is wanted.
        """
        subjects = {limit_id.subject for limit_id, _ in wanted}
        async with self.transactions.write() as session:
            limits = await quota_rows.find_limits(session, subjects)
            before = await quota_rows.find_spending(session, subjects)
            after, grants = _leases(limits, before, wanted, self._database.clock())
            await quota_rows.put_spending(session, gateway_id, before, after)
        return grants

    @uncancellable
    async def list(
        self, caller: Caller, subject: Subject | None, *, after: tuple[str, str], limit: int
    ) -> list[Quota]:
        """The quotas after one, by kind and name; of a client, those that apply to it.

        Raises: QuotaNotFound for one that does not exist, or that a client may not see.
        """
        now_ms = self._database.clock()
        return await self.transactions.read(
            partial(_list, caller=caller, subject=subject, after=after, limit=limit, now_ms=now_ms)
        )


async def _list(
    session: Session,
    *,
    caller: Caller,
    subject: Subject | None,
    after: tuple[str, str],
    limit: int,
    now_ms: int,
) -> list[Quota]:
    if subject is not None:
        await _check_visible(session, caller, subject)
        found = list((await quota_rows.find_limits(session, [subject])).items())
        if not found:
            raise _not_found(subject)
    elif caller.is_admin:
        found = await quota_rows.list_limits(session, after=after, limit=limit)
    else:
        own = await quota_rows.find_limits(session, await _subjects_of(session, caller))
        found = sorted(own.items())
    page = [(one, limits) for one, limits in found if (one.kind.value, one.name) > after][:limit]
    spending = await quota_rows.find_spending(session, [one for one, _ in page])
    return [_quota(one, limits, spending, now_ms) for one, limits in page]


def _leases(
    limits: dict[Subject, Limits],
    before: dict[LimitId, Spending],
    wanted: Sequence[tuple[LimitId, Request]],
    now_ms: int,
) -> tuple[dict[LimitId, Spending], list[Grant]]:
    after: dict[LimitId, Spending] = {}
    grants: list[Grant] = []
    for limit_id, request in wanted:
        limit = limits.get(limit_id.subject, Limits()).of(limit_id.kind)
        if not limit:
            grants.append(Grant(request.wanted, SHORT_VALID_MS))
            continue
        known = after.get(limit_id) or before.get(limit_id) or Spending()
        after[limit_id], grant = lease(limit_id.kind, limit, known, request, now_ms)
        grants.append(grant)
    return after, grants


async def _subjects_of(session: Session, caller: Caller) -> list[Subject]:
    """Whose quotas apply to a client: its user, that user's team and keys."""
    user = await user_rows.find_user(session, caller.user) if caller.user else None
    if user is None:
        return []
    subjects = [Subject(SubjectKind.USER, user.name)]
    if user.team:
        subjects.append(Subject(SubjectKind.TEAM, user.team))
    keys = await key_rows.list_keys(
        session, user=user.name, revoked=False, before=(2**62, ""), limit=_UNLIMITED_KEYS
    )
    return subjects + [Subject(SubjectKind.KEY, key.key_id) for key in keys]


async def _check_visible(session: Session, caller: Caller, subject: Subject) -> None:
    if not caller.is_admin and subject not in await _subjects_of(session, caller):
        raise _not_found(subject)


async def _check_exists(session: Session, subject: Subject) -> None:
    match subject.kind:
        case SubjectKind.USER:
            await existing_user(session, name=subject.name, field="subject.user")
        case SubjectKind.KEY:
            key = await existing_key(session, subject.name, field="subject.key_id")
            if key.key_id != subject.name:  # a prefix
                raise rules.key_not_found("subject.key_id")
        case SubjectKind.TEAM:
            pass


def _quota(
    subject: Subject, limits: Limits, spending: dict[LimitId, Spending], now_ms: int
) -> Quota:
    windows = {kind: window_of(kind, now_ms) for kind in LimitKind}
    used = {
        kind.value: spending.get(LimitId(subject, kind), Spending()).spent_at(window)
        for kind, window in windows.items()
        if limits.of(kind) and kind is not LimitKind.CONCURRENT_GENERATIONS
    }
    return Quota(subject, limits, Limits(**used))


def _not_found(subject: Subject) -> QuotaNotFound:
    return QuotaNotFound(f"there is no quota of {subject}", field="subject")

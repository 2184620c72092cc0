"""AccessService, except signing in: each method checks, calls and replies."""

from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_access import convert
from mlxmesh_access.accounts.keys import Keys
from mlxmesh_access.accounts.users import Users
from mlxmesh_access.audit import Audit
from mlxmesh_access.clock import Clock
from mlxmesh_access.quotas.quotas import Quotas
from mlxmesh_access.sign_in.servicer import SignInServicer
from mlxmesh_access.sign_in.sign_in import SignIn
from mlxmesh_access.usage import convert as usage_convert
from mlxmesh_access.usage.usage import Usage
from mlxmesh_shared.page_tokens import from_page_token, to_page_token
from mlxmesh_shared.rpc.caller import forwarded_caller

_Context = ServicerContext[Any, Any]

_DEFAULT_PAGE_SIZE = 100
_DEFAULT_USAGE_PAGE_SIZE = 1000
_NEWEST = 2**62


class AccessServicer(SignInServicer):
    """What is stored, over gRPC; the contract documents each method."""

    def __init__(
        self,
        *,
        sign_in: SignIn,
        users: Users,
        keys: Keys,
        quotas: Quotas,
        usage: Usage,
        audit: Audit,
        clock: Clock,
    ) -> None:
        super().__init__(sign_in)
        self._users = users
        self._keys = keys
        self._quotas = quotas
        self._usage = usage
        self._audit = audit
        self._clock = clock

    async def CreateUser(
        self, request: pb.CreateUserRequest, context: _Context
    ) -> pb.CreateUserResponse:
        wanted = convert.from_new_user(request)
        user = await self._users.create(forwarded_caller(context), wanted, request.password)
        return pb.CreateUserResponse(user=convert.to_user(user))

    async def GetUser(self, request: pb.GetUserRequest, context: _Context) -> pb.GetUserResponse:
        user = await self._users.get(forwarded_caller(context), request.name)
        return pb.GetUserResponse(user=convert.to_user(user))

    async def ListUsers(
        self, request: pb.ListUsersRequest, context: _Context
    ) -> pb.ListUsersResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        (after,) = from_page_token(request.page_token, ("",))
        found = await self._users.list(forwarded_caller(context), after=str(after), limit=size + 1)
        page = found[:size]
        token = to_page_token([page[-1].name]) if len(found) > size else ""
        return pb.ListUsersResponse(
            users=[convert.to_user(user) for user in page], next_page_token=token
        )

    async def UpdateUser(
        self, request: pb.UpdateUserRequest, context: _Context
    ) -> pb.UpdateUserResponse:
        change = convert.from_user_change(request)
        caller = forwarded_caller(context)
        user = await self._users.update(caller, request.name, change, request.old_password)
        return pb.UpdateUserResponse(user=convert.to_user(user))

    async def DeleteUser(
        self, request: pb.DeleteUserRequest, context: _Context
    ) -> pb.DeleteUserResponse:
        await self._users.delete(forwarded_caller(context), request.name)
        return pb.DeleteUserResponse()

    async def CreateKey(
        self, request: pb.CreateKeyRequest, context: _Context
    ) -> pb.CreateKeyResponse:
        wanted = convert.from_new_key(request)
        created = await self._keys.create(forwarded_caller(context), wanted)
        return pb.CreateKeyResponse(key=convert.to_key(created.key), secret=created.text)

    async def ListKeys(self, request: pb.ListKeysRequest, context: _Context) -> pb.ListKeysResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        created_ms, key_id = from_page_token(request.page_token, (_NEWEST, ""))
        found = await self._keys.list(
            forwarded_caller(context),
            user=request.user,
            revoked=request.revoked,
            before=(int(created_ms), str(key_id)),
            limit=size + 1,
        )
        page = found[:size]
        last = [page[-1].created_ms, page[-1].key_id] if len(found) > size else []
        return pb.ListKeysResponse(
            keys=[convert.to_key(key) for key in page],
            next_page_token=to_page_token(last) if last else "",
        )

    async def RevokeKey(
        self, request: pb.RevokeKeyRequest, context: _Context
    ) -> pb.RevokeKeyResponse:
        key = await self._keys.revoke(forwarded_caller(context), request.key_id)
        return pb.RevokeKeyResponse(key=convert.to_key(key))

    async def SetQuota(self, request: pb.SetQuotaRequest, context: _Context) -> pb.SetQuotaResponse:
        subject = convert.from_subject(request.subject)
        limits = convert.from_limits(request.limits)
        quota = await self._quotas.set(forwarded_caller(context), subject, limits)
        return pb.SetQuotaResponse(quota=convert.to_quota(quota))

    async def ListQuotas(
        self, request: pb.ListQuotasRequest, context: _Context
    ) -> pb.ListQuotasResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        kind, name = from_page_token(request.page_token, ("", ""))
        given = request.HasField("subject")
        found = await self._quotas.list(
            forwarded_caller(context),
            convert.from_subject(request.subject) if given else None,
            after=(str(kind), str(name)),
            limit=size + 1,
        )
        page = found[:size]
        last = page[-1].subject if len(found) > size else None
        return pb.ListQuotasResponse(
            quotas=[convert.to_quota(quota) for quota in page],
            next_page_token=to_page_token([last.kind.value, last.name]) if last else "",
        )

    async def DeleteQuota(
        self, request: pb.DeleteQuotaRequest, context: _Context
    ) -> pb.DeleteQuotaResponse:
        subject = convert.from_subject(request.subject)
        await self._quotas.delete(forwarded_caller(context), subject)
        return pb.DeleteQuotaResponse()

    async def QueryUsage(
        self, request: pb.QueryUsageRequest, context: _Context
    ) -> pb.QueryUsageResponse:
        query = usage_convert.from_usage_query(request, self._clock())
        size = request.page_size or _DEFAULT_USAGE_PAGE_SIZE
        first = usage_convert.first_position(query.groups)
        after = from_page_token(request.page_token, first) if request.page_token else ()
        found = await self._usage.query(
            forwarded_caller(context), query, after=after, limit=size + 1
        )
        page = found[:size]
        return pb.QueryUsageResponse(
            rows=[usage_convert.to_usage_row(usage) for usage in page],
            next_page_token=to_page_token(page[-1].position) if len(found) > size else "",
        )

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: _Context
    ) -> pb.ListAuditEntriesResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        (before,) = from_page_token(request.page_token, (_NEWEST,))
        found = await self._audit.entries(
            forwarded_caller(context), actor=request.actor, before=int(before), limit=size + 1
        )
        page = found[:size]
        return pb.ListAuditEntriesResponse(
            entries=[convert.to_audit_entry(entry) for entry in page],
            next_page_token=to_page_token([page[-1].number]) if len(found) > size else "",
        )

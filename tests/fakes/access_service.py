"""An AccessService in memory, as clients of a gateway see it: callers are known by their keys."""

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1.access_pb2_grpc import (
    AccessServiceServicer,
    add_AccessServiceServicer_to_server,
)
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    KeyNotFound,
    PermissionDenied,
    QuotaNotFound,
    Unauthenticated,
    UserExists,
    UserNotFound,
)
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.access_state import AccessState, Account, check_password, digest, now, subject_name
from tests.fakes.serving import serving

SERVICE = pb.DESCRIPTOR.services_by_name["AccessService"].full_name


class FakeAccess(AccessState, AccessServiceServicer):
    """Users, keys, quotas, usage and sessions, without a database."""

    async def CreateUser(self, request: Any, context: Any) -> pb.CreateUserResponse:
        caller = self.admin(context)
        role = request.role or pb.ACCESS_ROLE_MEMBER
        kind = request.kind or pb.USER_KIND_PERSON
        if not self.accounts and (role != pb.ACCESS_ROLE_ADMIN or kind != pb.USER_KIND_PERSON):
            raise IllegalState("the first user must be an admin")
        if request.name in self.accounts:
            raise UserExists(f"there is a user {request.name} already", field="name")
        if kind == pb.USER_KIND_PERSON:
            check_password(request.password)
        elif request.password:
            raise InvalidArgument("password: a service account has none", field="password")
        user = pb.User(
            name=request.name, kind=kind, state=pb.USER_STATE_ACTIVE, role=role, team=request.team
        )
        user.created.CopyFrom(now())
        self.accounts[user.name] = Account(user, request.password)
        self.record(caller, "user.created", f"user:{user.name}")
        return pb.CreateUserResponse(user=user)

    async def SignUp(self, request: Any, context: Any) -> pb.SignUpResponse:
        self.enter(context)
        if not self.sign_up:
            raise PermissionDenied("sign-up is not allowed; ask an admin for a user")
        state, role = pb.USER_STATE_PENDING, pb.ACCESS_ROLE_MEMBER
        user = pb.User(name=request.name, kind=pb.USER_KIND_PERSON, state=state, role=role)
        self.accounts[user.name] = Account(user, request.password)
        return pb.SignUpResponse(user=user)

    async def GetUser(self, request: Any, context: Any) -> pb.GetUserResponse:
        caller = self.known(context)
        return pb.GetUserResponse(user=self.find(caller, request.name or caller.user).user)

    async def ListUsers(self, request: Any, context: Any) -> pb.ListUsersResponse:
        self.admin(context)
        users = [self.accounts[name].user for name in sorted(self.accounts)]
        page, token = self.page(users, request)
        return pb.ListUsersResponse(users=page, next_page_token=token)

    async def UpdateUser(self, request: Any, context: Any) -> pb.UpdateUserResponse:
        caller = self.known(context)
        account = self.find(caller, request.name)
        user = account.user
        if not caller.is_admin:
            self.check_own_password(account, request)
        loses_role = request.HasField("role") and request.role != pb.ACCESS_ROLE_ADMIN
        disables = request.HasField("state") and request.state == pb.USER_STATE_DISABLED
        if loses_role or disables:
            self.check_not_last_admin(user)
        for name in ("state", "role", "team"):
            if request.HasField(name):
                setattr(user, name, getattr(request, name))
        if request.HasField("password"):
            account.password = request.password
        if request.HasField("password") or disables:
            self.end_sessions(user.name)
        self.record(caller, "user.updated", f"user:{user.name}")
        return pb.UpdateUserResponse(user=user)

    async def DeleteUser(self, request: Any, context: Any) -> pb.DeleteUserResponse:
        caller = self.admin(context)
        self.check_not_last_admin(self.find(caller, request.name).user)
        del self.accounts[request.name]
        self.keys = {k: key for k, key in self.keys.items() if key.user != request.name}
        self.record(caller, "user.deleted", f"user:{request.name}")
        return pb.DeleteUserResponse()

    async def CreateKey(self, request: Any, context: Any) -> pb.CreateKeyResponse:
        caller = self.known(context)
        account = self.find(caller, request.user or caller.user)
        role = request.role or pb.ACCESS_ROLE_MEMBER
        if role > account.user.role:
            raise PermissionDenied("role: more than the user's own", field="role")
        if role == pb.ACCESS_ROLE_ADMIN and request.models:
            raise InvalidArgument("models: not with the role admin", field="models")
        secret = f"mlx_{secrets.token_hex(16)}"
        key = pb.ApiKey(
            key_id=f"k_{secrets.token_hex(3)}",
            name=request.name,
            prefix=secret[:8],
            user=account.user.name,
            role=role,
            models=request.models,
        )
        key.created.CopyFrom(now())
        if request.HasField("expires"):
            key.expires.CopyFrom(request.expires)
        self.keys[key.key_id] = key
        self.secrets[digest(secret)] = key.key_id
        self.record(caller, "key.created", f"key:{key.key_id}")
        return pb.CreateKeyResponse(key=key, secret=secret)

    async def ListKeys(self, request: Any, context: Any) -> pb.ListKeysResponse:
        caller = self.known(context)
        user = request.user or ("" if caller.is_admin else caller.user)
        if user:
            self.find(caller, user)
        keys = [
            key
            for key in reversed(self.keys.values())
            if user in ("", key.user) and (request.revoked or not key.HasField("revoked"))
        ]
        page, token = self.page(keys, request)
        return pb.ListKeysResponse(keys=page, next_page_token=token)

    async def RevokeKey(self, request: Any, context: Any) -> pb.RevokeKeyResponse:
        caller = self.known(context)
        named = (key for key in self.keys.values() if request.key_id in (key.key_id, key.prefix))
        key = next(named, None)
        if key is None or not (caller.is_admin or key.user == caller.user):
            raise KeyNotFound(f"no key {request.key_id}", field="key_id")
        key.revoked.CopyFrom(now())
        self.record(caller, "key.revoked", f"key:{key.key_id}")
        return pb.RevokeKeyResponse(key=key)

    async def SetQuota(self, request: Any, context: Any) -> pb.SetQuotaResponse:
        caller = self.admin(context)
        if not request.limits.ListFields():
            raise InvalidArgument("limits: at least one is required", field="limits")
        subject = request.subject
        if subject.user and subject.user not in self.accounts:
            raise UserNotFound(f"no user {subject.user}", field="subject.user")
        if subject.key_id and subject.key_id not in self.keys:
            raise KeyNotFound(f"no key {subject.key_id}", field="subject.key_id")
        quota = pb.Quota(subject=subject, limits=request.limits, used=pb.QuotaUse())
        self.quotas[subject_name(subject)] = quota
        self.record(caller, "quota.set", subject_name(subject))
        return pb.SetQuotaResponse(quota=quota)

    async def ListQuotas(self, request: Any, context: Any) -> pb.ListQuotasResponse:
        caller = self.known(context)
        wanted = subject_name(request.subject) if request.HasField("subject") else ""
        own = {f"user:{caller.user}", f"team:{self.team_of(caller)}"}
        own |= {f"key:{key.key_id}" for key in self.keys.values() if key.user == caller.user}
        quotas = [
            quota
            for name, quota in sorted(self.quotas.items())
            if wanted in ("", name) and (caller.is_admin or name in own)
        ]
        if wanted and not quotas:
            raise QuotaNotFound(f"there is no quota of {wanted}", field="subject")
        page, token = self.page(quotas, request)
        return pb.ListQuotasResponse(quotas=page, next_page_token=token)

    async def DeleteQuota(self, request: Any, context: Any) -> pb.DeleteQuotaResponse:
        caller = self.admin(context)
        name = subject_name(request.subject)
        if self.quotas.pop(name, None) is None:
            raise QuotaNotFound(f"no quota of {name}", field="subject")
        self.record(caller, "quota.deleted", name)
        return pb.DeleteQuotaResponse()

    async def QueryUsage(self, request: Any, context: Any) -> pb.QueryUsageResponse:
        self.known(context)
        self.usage_queries.append(request)
        page, token = self.page(self.usage, request)
        return pb.QueryUsageResponse(rows=page, next_page_token=token)

    async def ListAuditEntries(self, request: Any, context: Any) -> pb.ListAuditEntriesResponse:
        self.admin(context)
        found = [one for one in reversed(self.audit) if request.actor in ("", one.actor)]
        page, token = self.page(found, request)
        return pb.ListAuditEntriesResponse(entries=page, next_page_token=token)

    async def SignIn(self, request: Any, context: Any) -> pb.SignInResponse:
        self.enter(context)
        account = self.accounts.get(request.name)
        if account is None or not account.password or account.password != request.password:
            raise Unauthenticated("the name or the password is wrong")
        if account.user.state != pb.USER_STATE_ACTIVE:
            raise Unauthenticated("this user may not sign in; ask an admin")
        return pb.SignInResponse(tokens=self.begin_session(account.user))

    async def RefreshSession(self, request: Any, context: Any) -> pb.RefreshSessionResponse:
        self.enter(context)
        name = self.refresh_tokens.pop(request.refresh_token, None)
        if name is None:
            raise Unauthenticated("the session has ended; sign in again")
        return pb.RefreshSessionResponse(tokens=self.begin_session(self.accounts[name].user))

    async def SignOut(self, request: Any, context: Any) -> pb.SignOutResponse:
        self.enter(context)
        self.refresh_tokens.pop(request.refresh_token, None)
        return pb.SignOutResponse()

    async def GetSignInOptions(self, request: Any, context: Any) -> pb.GetSignInOptionsResponse:
        self.enter(context)
        return pb.GetSignInOptionsResponse(
            sign_up=self.sign_up,
            oidc_issuer=self.issuer,
            jwks_json='{"keys": []}',
            has_users=bool(self.accounts),
        )

    async def BeginOidcSignIn(self, request: Any, context: Any) -> pb.BeginOidcSignInResponse:
        self.enter(context)
        if not self.issuer:
            raise IllegalState("there is no OpenID Connect issuer in the settings")
        state = secrets.token_hex(8)
        self.oidc_states[state] = request.redirect_uri
        url = f"{self.issuer}/authorize?state={state}&redirect_uri={request.redirect_uri}"
        return pb.BeginOidcSignInResponse(authorization_url=url, state=state)

    async def CompleteOidcSignIn(self, request: Any, context: Any) -> pb.CompleteOidcSignInResponse:
        self.enter(context)
        if self.oidc_states.pop(request.state, None) is None or request.code not in self.accounts:
            raise Unauthenticated("the issuer's answer is unknown or too old; sign in again")
        user = self.accounts[request.code].user
        return pb.CompleteOidcSignInResponse(tokens=self.begin_session(user))


def access_server(servicer: FakeAccess) -> MeshServer:
    """A server of a fake access service; the caller starts and stops it."""
    services = [(add_AccessServiceServicer_to_server, servicer)]
    return MeshServer(services=services, service_names=[SERVICE])


@asynccontextmanager
async def running_access(servicer: FakeAccess) -> AsyncIterator[str]:
    """The address of a server that runs until the context ends."""
    server = access_server(servicer)
    async with serving(server) as address:
        await server.set_serving()
        yield address


def names(items: Iterable[Any]) -> list[str]:
    """The names of users or keys."""
    return [item.name for item in items]

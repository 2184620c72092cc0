"""The client's methods for users, keys, quotas, usage and the audit log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar, Unpack

from grpc import aio

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1.access_pb2_grpc import AccessServiceStub
from mlxmesh_client import access_requests as requests
from mlxmesh_client.access_requests import Group, Kind, Limits, Role, Subject, UserChanges
from mlxmesh_client.calls import Calls

P = TypeVar("P", bound="_Page")


class _PageRequest(Protocol):
    page_token: str


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


class AccessClient:
    """One method per RPC of AccessService; `MeshClient.access` has it.

    Lists are read to their end, page by page.

        key = await mesh.access.create_key("my app", models=["qwen*"])
        print(key.secret)
    """

    def __init__(self, channel: aio.Channel, calls: Calls) -> None:
        self._stub = AccessServiceStub(channel)
        self._calls = calls

    async def create_user(
        self,
        name: str,
        *,
        password: str = "",
        kind: Kind = "person",
        role: Role = "member",
        team: str = "",
        timeout_s: float | None = None,
    ) -> pb.User:
        """Creates an active user; the first one of a mesh must be an admin."""
        request = requests.new_user(name, password, kind, role, team)
        response = await self._calls.unary(self._stub.CreateUser, request, timeout_s, safe=False)
        return response.user

    async def sign_up(self, name: str, *, password: str, timeout_s: float | None = None) -> pb.User:
        """Creates a user who is pending until an admin approves it."""
        request = pb.SignUpRequest(name=name, password=password)
        response = await self._calls.unary(
            self._stub.SignUp, request, timeout_s, safe=False, anonymous=True
        )
        return response.user

    async def get_user(self, name: str = "", *, timeout_s: float | None = None) -> pb.User:
        """Returns one user, by default the caller's own. Raises: UserNotFound."""
        request = pb.GetUserRequest(name=name)
        response = await self._calls.unary(self._stub.GetUser, request, timeout_s, safe=True)
        return response.user

    async def list_users(self, *, timeout_s: float | None = None) -> list[pb.User]:
        """Returns every user, by name."""
        pages = self._pages(self._stub.ListUsers, pb.ListUsersRequest(), timeout_s)
        return [user async for page in pages for user in page.users]

    async def update_user(
        self, name: str, *, timeout_s: float | None = None, **changes: Unpack[UserChanges]
    ) -> pb.User:
        """Changes the given fields of a user; others stay as they are."""
        request = requests.changed_user(name, changes)
        response = await self._calls.unary(self._stub.UpdateUser, request, timeout_s, safe=False)
        return response.user

    async def delete_user(self, name: str, *, timeout_s: float | None = None) -> None:
        """Removes a user and its keys; its usage stays."""
        request = pb.DeleteUserRequest(name=name)
        await self._calls.unary(self._stub.DeleteUser, request, timeout_s, safe=False)

    async def create_key(
        self,
        name: str,
        *,
        user: str = "",
        role: Role = "member",
        models: Sequence[str] = (),
        expires: datetime | None = None,
        timeout_s: float | None = None,
    ) -> pb.CreateKeyResponse:
        """Creates an API key, by default of the caller's own user.

        Only this response contains the whole key, as `secret`.
        """
        request = requests.new_key(name, user, role, models, expires)
        return await self._calls.unary(self._stub.CreateKey, request, timeout_s, safe=False)

    async def list_keys(
        self, *, user: str = "", revoked: bool = False, timeout_s: float | None = None
    ) -> list[pb.ApiKey]:
        """Returns the caller's keys, for an admin all of them, the newest first."""
        request = pb.ListKeysRequest(user=user, revoked=revoked)
        pages = self._pages(self._stub.ListKeys, request, timeout_s)
        return [key async for page in pages for key in page.keys]

    async def revoke_key(self, key_id: str, *, timeout_s: float | None = None) -> pb.ApiKey:
        """Revokes a key, named by its id or its displayed prefix, for ever."""
        request = pb.RevokeKeyRequest(key_id=key_id)
        response = await self._calls.unary(self._stub.RevokeKey, request, timeout_s, safe=False)
        return response.key

    async def set_quota(
        self, subject: Subject, *, timeout_s: float | None = None, **limits: Unpack[Limits]
    ) -> pb.Quota:
        """Replaces the quota of `("key" | "user" | "team", name)`; at least one limit."""
        request = pb.SetQuotaRequest(
            subject=requests.quota_subject(subject), limits=pb.QuotaLimits(**limits)
        )
        response = await self._calls.unary(self._stub.SetQuota, request, timeout_s, safe=True)
        return response.quota

    async def list_quotas(
        self, subject: Subject | None = None, *, timeout_s: float | None = None
    ) -> list[pb.Quota]:
        """Returns the quotas that apply to the caller, for an admin all of them."""
        request = pb.ListQuotasRequest(
            subject=requests.quota_subject(subject) if subject is not None else None
        )
        pages = self._pages(self._stub.ListQuotas, request, timeout_s)
        return [quota async for page in pages for quota in page.quotas]

    async def delete_quota(self, subject: Subject, *, timeout_s: float | None = None) -> None:
        """Removes a quota. Raises: QuotaNotFound."""
        request = pb.DeleteQuotaRequest(subject=requests.quota_subject(subject))
        await self._calls.unary(self._stub.DeleteQuota, request, timeout_s, safe=False)

    async def query_usage(
        self,
        *,
        group_by: Sequence[Group] = (),
        start: datetime | None = None,
        end: datetime | None = None,
        user: str = "",
        key_id: str = "",
        model: str = "",
        timeout_s: float | None = None,
    ) -> list[pb.UsageRow]:
        """Returns sums of usage, of the last 30 days by default; without groups one total."""
        request = requests.usage_query(group_by, start, end)
        request.user, request.key_id, request.model = user, key_id, model
        pages = self._pages(self._stub.QueryUsage, request, timeout_s)
        return [row async for page in pages for row in page.rows]

    async def audit_entries(
        self, *, actor: str = "", timeout_s: float | None = None
    ) -> AsyncGenerator[pb.AuditEntry]:
        """Yields the audit log, the newest entry first; reads further pages as needed."""
        request = pb.ListAuditEntriesRequest(actor=actor)
        async for page in self._pages(self._stub.ListAuditEntries, request, timeout_s):
            for entry in page.entries:
                yield entry

    async def sign_in(
        self, name: str, password: str, *, timeout_s: float | None = None
    ) -> pb.SessionTokens:
        """Begins a session; its access token is sent like an API key."""
        request = pb.SignInRequest(name=name, password=password)
        response = await self._calls.unary(
            self._stub.SignIn, request, timeout_s, safe=False, anonymous=True
        )
        return response.tokens

    async def refresh_session(
        self, refresh_token: str, *, timeout_s: float | None = None
    ) -> pb.SessionTokens:
        """Returns new tokens; a second use of one refresh token ends the session."""
        request = pb.RefreshSessionRequest(refresh_token=refresh_token)
        response = await self._calls.unary(
            self._stub.RefreshSession, request, timeout_s, safe=False, anonymous=True
        )
        return response.tokens

    async def sign_out(self, refresh_token: str, *, timeout_s: float | None = None) -> None:
        """Ends a session."""
        request = pb.SignOutRequest(refresh_token=refresh_token)
        await self._calls.unary(self._stub.SignOut, request, timeout_s, safe=True, anonymous=True)

    async def sign_in_options(
        self, *, timeout_s: float | None = None
    ) -> pb.GetSignInOptionsResponse:
        """Returns how one may sign in, and whether there is any user."""
        request = pb.GetSignInOptionsRequest()
        return await self._calls.unary(
            self._stub.GetSignInOptions, request, timeout_s, safe=True, anonymous=True
        )

    async def begin_oidc_sign_in(
        self, redirect_uri: str, *, timeout_s: float | None = None
    ) -> pb.BeginOidcSignInResponse:
        """Begins a sign-in at the OpenID Connect issuer; returns the URL to open in a browser."""
        request = pb.BeginOidcSignInRequest(redirect_uri=redirect_uri)
        return await self._calls.unary(
            self._stub.BeginOidcSignIn, request, timeout_s, safe=False, anonymous=True
        )

    async def complete_oidc_sign_in(
        self, *, state: str, code: str, timeout_s: float | None = None
    ) -> pb.SessionTokens:
        """Begins a session with what the issuer sent back."""
        request = pb.CompleteOidcSignInRequest(state=state, code=code)
        response = await self._calls.unary(
            self._stub.CompleteOidcSignIn, request, timeout_s, safe=False, anonymous=True
        )
        return response.tokens

    async def _pages(
        self, method: Callable[..., Awaitable[P]], request: _PageRequest, timeout_s: float | None
    ) -> AsyncGenerator[P]:
        while True:
            page = await self._calls.unary(method, request, timeout_s, safe=True)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

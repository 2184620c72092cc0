"""What the fake AccessService knows, and how it knows its callers."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    MeshError,
    PermissionDenied,
    Unauthenticated,
    UserNotFound,
)

T = TypeVar("T")
DEFAULT_PAGE = 100


@dataclass
class Account:
    user: pb.User
    password: str = ""


@dataclass(frozen=True)
class Caller:
    """Who calls: a user by a key or a session, or anybody while there are no users."""

    user: str
    actor: str
    is_admin: bool


@dataclass
class AccessState:
    """Users, keys, quotas, usage and sessions in memory, and who calls."""

    session_s: float = 900
    """How long access tokens last."""
    sign_up: bool = False
    failures: list[MeshError] = field(default_factory=list)
    """Raised by the next calls, one each."""
    max_page: int = 1000
    usage: list[pb.UsageRow] = field(default_factory=list)
    usage_queries: list[pb.QueryUsageRequest] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    keys: dict[str, pb.ApiKey] = field(default_factory=dict)
    quotas: dict[str, pb.Quota] = field(default_factory=dict)
    audit: list[pb.AuditEntry] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    """By a key's hash, its id."""
    access_tokens: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    refresh_tokens: dict[str, str] = field(default_factory=dict)
    issuer: str = ""
    """Where people sign in; the code that it sends back is the user's name."""
    oidc_states: dict[str, str] = field(default_factory=dict)
    authorizations: list[str] = field(default_factory=list)
    """The metadata `authorization` of every call, empty for none."""

    def enter(self, context: Any) -> str:
        given = dict(context.invocation_metadata()).get("authorization", "")
        self.authorizations.append(given)
        if self.failures:
            raise self.failures.pop(0)
        return given.removeprefix("Bearer ")

    def known(self, context: Any) -> Caller:
        credential = self.enter(context)
        if not self.accounts:
            return Caller("", "anonymous", is_admin=True)
        key = self.keys.get(self.secrets.get(digest(credential), ""))
        if key is not None and not key.HasField("revoked") and not _is_past(key):
            self._check_active(key.user)
            key.last_used.CopyFrom(now())
            is_admin = key.role == pb.ACCESS_ROLE_ADMIN
            return Caller(key.user, f"key:{key.key_id}", is_admin)
        name, expires = self.access_tokens.get(credential, ("", datetime.now(UTC)))
        if expires <= datetime.now(UTC):
            raise Unauthenticated("credentials are missing or invalid")
        self._check_active(name)
        is_admin = self.accounts[name].user.role == pb.ACCESS_ROLE_ADMIN
        return Caller(name, f"user:{name}", is_admin)

    def admin(self, context: Any) -> Caller:
        caller = self.known(context)
        if not caller.is_admin:
            raise PermissionDenied("only the role admin may call this")
        return caller

    def _check_active(self, name: str) -> None:
        account = self.accounts.get(name)
        if account is None or account.user.state != pb.USER_STATE_ACTIVE:
            raise Unauthenticated("credentials are missing or invalid")

    def find(self, caller: Caller, name: str) -> Account:
        if name not in self.accounts or not (caller.is_admin or name == caller.user):
            raise UserNotFound(f"no user {name}", field="name")
        return self.accounts[name]

    def check_own_password(self, account: Account, request: Any) -> None:
        if any(request.HasField(name) for name in ("state", "role", "team")):
            raise PermissionDenied("only the role admin may change this")
        if request.old_password != account.password:
            raise Unauthenticated("old_password is wrong")

    def check_not_last_admin(self, user: pb.User) -> None:
        admins = [
            each.user.name
            for each in self.accounts.values()
            if each.user.role == pb.ACCESS_ROLE_ADMIN and each.user.state == pb.USER_STATE_ACTIVE
        ]
        if admins == [user.name]:
            raise IllegalState(f"{user.name} is the last active admin")

    def team_of(self, caller: Caller) -> str:
        return self.accounts[caller.user].user.team if caller.user else ""

    def begin_session(self, user: pb.User) -> pb.SessionTokens:
        access, refresh = secrets.token_hex(16), secrets.token_hex(16)
        expires = datetime.now(UTC) + timedelta(seconds=self.session_s)
        self.access_tokens[access] = (user.name, expires)
        self.refresh_tokens[refresh] = user.name
        user.last_sign_in.CopyFrom(now())
        tokens = pb.SessionTokens(access_token=access, refresh_token=refresh, user=user)
        tokens.access_expires.FromDatetime(expires)
        tokens.refresh_expires.FromDatetime(expires + timedelta(days=30))
        return tokens

    def end_sessions(self, name: str) -> None:
        self.refresh_tokens = {k: user for k, user in self.refresh_tokens.items() if user != name}
        self.access_tokens = {k: one for k, one in self.access_tokens.items() if one[0] != name}

    def page(self, items: Sequence[T], request: Any) -> tuple[Sequence[T], str]:
        start = int(request.page_token or 0)
        end = start + min(request.page_size or DEFAULT_PAGE, self.max_page)
        return items[start:end], str(end) if end < len(items) else ""

    def record(self, caller: Caller, action: str, target: str) -> None:
        self.audit.append(
            pb.AuditEntry(time=now(), actor=caller.actor, action=action, target=target)
        )


def check_password(password: str) -> None:
    if len(password) < 8:
        raise InvalidArgument("password must have at least 8 characters", field="password")


def subject_name(subject: pb.QuotaSubject) -> str:
    kind = subject.WhichOneof("subject") or ""
    return f"{kind.removesuffix('_id')}:{getattr(subject, kind)}"


def _is_past(key: pb.ApiKey) -> bool:
    return key.HasField("expires") and key.expires.ToDatetime(UTC) <= datetime.now(UTC)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now

"""Who may do what with users and keys: decisions without I/O."""

from collections.abc import Iterable

from mlxmesh_access.accounts.models import Key, Role, User, UserChange, UserKind, UserState
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    KeyNotFound,
    PermissionDenied,
    Unauthenticated,
    UserNotFound,
)
from mlxmesh_shared.rpc.caller import ForwardedCaller as Caller


def require_admin(caller: Caller) -> None:
    """Raises: PermissionDenied for a caller that is no admin."""
    if not caller.is_admin:
        raise PermissionDenied("only an admin may do this")


def check_credentials(caller: Caller, user: User | None, key: Key | None, now_ms: int) -> None:
    """Raises: Unauthenticated where a caller's key or user does not work any more, or not as admin.

    user, key: those that the caller states, if they exist.
    """
    if caller.user and (user is None or user.state is not UserState.ACTIVE):
        raise _unauthenticated()
    if caller.key_id and (key is None or key.user != caller.user or not key.works(now_ms)):
        raise _unauthenticated()
    roles = [each.role for each in (user, key) if each is not None]
    if caller.is_admin and Role.MEMBER in roles:
        raise _unauthenticated()


def check_anonymous(caller: Caller, *, has_users: bool) -> None:
    """Raises: Unauthenticated for an anonymous admin, once there are users.

    Before, such a caller may create the first one. A gateway that does not know of that user yet
    would still let callers through.
    """
    is_open = caller.authentication_is_off or not has_users
    if caller.is_admin and caller.is_anonymous and not is_open:
        raise Unauthenticated("there are users now: sign in, or use a key")


def visible_user(caller: Caller, name: str, *, field: str) -> str:
    """The user that a request names, by default the caller's own.

    Raises: UserNotFound, also for another user where the caller is no admin.
    """
    chosen = name or caller.user
    if not chosen:
        raise UserNotFound("the caller is no user; name one", field=field)
    if not caller.is_admin and chosen != caller.user:
        raise user_not_found(chosen, field=field)
    return chosen


def check_first_user(*, is_first: bool, user: User) -> None:
    """Raises: IllegalState unless the first user is an active admin."""
    if is_first and not user.is_active_admin:
        raise IllegalState("the first user must be an admin: without one, nobody could administer")


def check_change(caller: Caller, user: User, change: UserChange) -> None:
    """Raises: UserNotFound, PermissionDenied or InvalidArgument for a change that is not legal."""
    visible_user(caller, user.name, field="name")
    if not caller.is_admin and not change.only_password():
        raise PermissionDenied("a user may change its own password only; ask an admin")
    if change.state is UserState.PENDING:
        raise InvalidArgument("state can be active or disabled", field="state")
    if change.password is not None and user.kind is UserKind.SERVICE_ACCOUNT:
        raise InvalidArgument("a service account has no password", field="password")


def check_an_admin_remains(before: User, after: User | None, other_admins: int) -> None:
    """Raises: IllegalState where nobody could administer the mesh any more.

    after: None for a user that is removed.
    other_admins: how many other users are active admins.
    """
    remains = after is not None and after.is_active_admin
    if before.is_active_admin and not remains and not other_admins:
        raise IllegalState(f"{before.name} is the last active admin; make another user admin first")


def check_new_key(caller: Caller, owner: User, key: Key, calling_key: Key | None) -> None:
    """Raises: PermissionDenied for a key that may do more than its owner or its creator;
    InvalidArgument for an admin's key with models, which could create a user without such a limit.

    calling_key: the key that the caller calls with.
    """
    if key.role is Role.ADMIN and key.models:
        raise InvalidArgument(
            "a key with the role admin cannot be limited to models; give it the role member",
            field="models",
        )
    if not caller.is_admin and owner.name != caller.user:
        raise PermissionDenied("only an admin may create keys of other users")
    if key.role is Role.ADMIN and not (owner.role is Role.ADMIN and caller.is_admin):
        raise PermissionDenied("role may not be more than that of the user and of the caller")
    if calling_key is None:
        return
    if calling_key.models and not _covered(key.models, calling_key.models):
        raise PermissionDenied(
            "models must be within those of the key that creates it: "
            + ", ".join(calling_key.models)
        )
    if calling_key.expires_ms and not 0 < key.expires_ms <= calling_key.expires_ms:
        raise PermissionDenied("expires must not be later than that of the key that creates it")


def check_key_visible(caller: Caller, key: Key) -> None:
    """Raises: KeyNotFound for the key of another user, unless the caller is an admin."""
    if not caller.is_admin and key.user != caller.user:
        raise key_not_found("key_id")


def smaller(one: Role, other: Role) -> Role:
    """The role that may do less."""
    return Role.ADMIN if one is other is Role.ADMIN else Role.MEMBER


def user_not_found(name: str, *, field: str = "name") -> UserNotFound:
    """The error for a user that does not exist, or that the caller may not see."""
    return UserNotFound(f"there is no user {name}", field=field)


def key_not_found(field: str) -> KeyNotFound:
    """The error for a key that does not exist, or that the caller may not see."""
    return KeyNotFound("there is no such key; list the keys to see which", field=field)


def _unauthenticated() -> Unauthenticated:
    return Unauthenticated(
        "these credentials do not work any more; sign in again, or use a new key"
    )


def _covered(models: Iterable[str], patterns: Iterable[str]) -> bool:
    """Whether every model that the first allow is allowed by the second."""
    chosen = tuple(models)
    allowed = tuple(patterns)
    return bool(chosen) and all(any(_covers(wide, one) for wide in allowed) for one in chosen)


def _covers(wide: str, narrow: str) -> bool:
    """Whether a pattern matches all that another one matches.

    A * of the narrow pattern is a character that only a * matches, so a pattern is compared like a
    name. In linear time: a regular expression with many * would not be.
    """
    first, *rest = wide.split("*")
    if not rest:
        return narrow == wide
    *middle, last = rest
    if not narrow.startswith(first) or len(narrow) < len(first) + len(last):
        return False
    end = len(narrow) - len(last)
    at = len(first)
    for part in middle:
        found = narrow.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return narrow.endswith(last)

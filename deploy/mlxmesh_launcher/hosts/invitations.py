"""The invitations of a mesh: single use, short-lived, stored without their secrets."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from mlxmesh_launcher.hosts.join_token import ID_BYTES, SECRET_BYTES, hash_of
from mlxmesh_shared.errors import IllegalState, NotFound, TooManyRequests, Unauthenticated
from mlxmesh_shared.host.atomic_file import write_atomically

FILE_NAME = "invitations.json"
DEFAULT_LIFETIME_S = 900
MAX_OPEN = 32
MAX_WRONG_SECRETS = 5
"""After so many, an invitation is revoked: somebody has its id and guesses."""
_RETENTION_S = 86_400
_AGAIN = "get a new one with `mlxmesh hosts invite` on the first host"
_UNKNOWN = f"no open invitation has this token: it is mistyped, or was revoked; {_AGAIN}"


class State(StrEnum):
    """What became of an invitation."""

    OPEN = "open"
    USED = "used"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Invitation:
    """One invitation. Times are seconds since the epoch."""

    id: str
    secret_hash: str
    services: tuple[str, ...]
    created_s: float
    expires_s: float
    used_by: str = ""
    revoked: bool = False
    wrong_secrets: int = 0

    def state(self, now_s: float) -> State:
        """Its state at that time."""
        if self.used_by:
            return State.USED
        if self.revoked:
            return State.REVOKED
        return State.OPEN if now_s < self.expires_s else State.EXPIRED


class Invitations:
    """Those of the last day, in a file that only its owner can read."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        """`clock` returns seconds since the epoch. Raises: IllegalState for an unusable file."""
        self._path = folder / FILE_NAME
        self._clock = clock
        self._by_id = _read(self._path)

    def create(self, services: Sequence[str], lifetime_s: float) -> tuple[Invitation, bytes]:
        """A new invitation and its secret, which is stored nowhere. Raises: TooManyRequests."""
        if len(self.open()) >= MAX_OPEN:
            raise TooManyRequests(
                f"{MAX_OPEN} invitations are open; revoke some with `mlxmesh hosts revoke ID`, or"
                " wait until they expire"
            )
        now_s, secret = self._clock(), secrets.token_bytes(SECRET_BYTES)
        invitation = Invitation(
            id=secrets.token_hex(ID_BYTES),
            secret_hash=hash_of(secret),
            services=tuple(services),
            created_s=now_s,
            expires_s=now_s + lifetime_s,
        )
        self._put(invitation)
        return invitation, secret

    def verify(self, invitation_id: str, secret: bytes) -> Invitation:
        """The open invitation of a token, which stays open. Raises: Unauthenticated."""
        invitation = self._by_id.get(invitation_id)
        # Also for an unknown id, so that the time of a response says nothing.
        expected = invitation.secret_hash if invitation is not None else hash_of(b"")
        matches = hmac.compare_digest(hash_of(secret), expected)
        if invitation is None or not matches:
            if invitation is not None:
                self._count_wrong_secret(invitation)
            raise Unauthenticated(_UNKNOWN)
        state = invitation.state(self._clock())
        if state is State.USED:
            raise Unauthenticated(f"host {invitation.used_by} used this token already; {_AGAIN}")
        if state is State.EXPIRED:
            at = datetime.fromtimestamp(invitation.expires_s, UTC).isoformat(timespec="seconds")
            raise Unauthenticated(f"this token expired at {at}; {_AGAIN}")
        if state is State.REVOKED:
            raise Unauthenticated(f"this token was revoked; {_AGAIN}")
        return invitation

    def use(self, invitation_id: str, host: str) -> None:
        """Uses an invitation up, which `verify` has just returned."""
        self._put(replace(self._by_id[invitation_id], used_by=host))

    def revoke(self, invitation_id: str) -> None:
        """Raises: NotFound when no such invitation is open."""
        invitation = self._by_id.get(invitation_id)
        if invitation is None or invitation.state(self._clock()) is not State.OPEN:
            raise NotFound(
                f"no open invitation has the id {invitation_id}; `mlxmesh hosts invitations` lists"
                " them"
            )
        self._put(replace(invitation, revoked=True))

    def open(self) -> list[Invitation]:
        """Those by which a host may join now."""
        now_s = self._clock()
        return [each for each in self._by_id.values() if each.state(now_s) is State.OPEN]

    def all(self) -> list[Invitation]:
        """The newest first."""
        return sorted(self._by_id.values(), key=lambda each: -each.created_s)

    def _count_wrong_secret(self, invitation: Invitation) -> None:
        wrong = invitation.wrong_secrets + 1
        revoked = invitation.revoked or wrong >= MAX_WRONG_SECRETS
        self._put(replace(invitation, wrong_secrets=wrong, revoked=revoked))

    def _put(self, invitation: Invitation) -> None:
        """Stores it, durably before anybody is told; forgets old ones."""
        oldest_s = self._clock() - _RETENTION_S
        kept = {each.id: each for each in self._by_id.values() if each.expires_s > oldest_s}
        kept[invitation.id] = invitation
        content = json.dumps([asdict(each) for each in kept.values()])
        try:
            write_atomically(self._path, content.encode(), mode=0o600)
        except OSError as error:
            raise IllegalState(f"cannot write {self._path}: {error.strerror}") from None
        self._by_id = kept


def _read(path: Path) -> Mapping[str, Invitation]:
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_bytes())
        found = [_invitation(row) for row in rows]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IllegalState(
            f"{path} cannot be read ({type(error).__name__}); remove it: open invitations end"
        ) from None
    return {each.id: each for each in found}


def _invitation(row: Mapping[str, Any]) -> Invitation:
    values: dict[str, Any] = {**row, "services": tuple(row["services"])}
    return Invitation(**values)

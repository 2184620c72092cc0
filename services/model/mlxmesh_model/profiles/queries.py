"""SQL statements about profiles, for both databases; each runs in its caller's transaction."""

import json
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime

from mlxmesh_model.profiles.profile import (
    DEFAULT,
    NO_SETTINGS,
    EngineProfile,
    Profile,
    ProfileReference,
)
from mlxmesh_shared.errors import ProfileNotFound
from mlxmesh_shared.sql.database import Row, Session
from mlxmesh_shared.sql.statements import upsert

_PUT_COUNTER = upsert("profiles", ("name", "last_revision"), ("name",))
_NEWEST = (
    "SELECT r.* FROM profile_revisions r JOIN profiles p"
    " ON p.name = r.name AND p.last_revision = r.revision"
)


def settings_text(settings: EngineProfile) -> str:
    """Settings as they are stored: JSON without what is not set."""
    return json.dumps(dict(settings.given), sort_keys=True)


def to_settings(text: str) -> EngineProfile:
    """Settings from their stored form."""
    return EngineProfile(**json.loads(text))


async def find(session: Session, reference: ProfileReference) -> Profile:
    """One revision of a profile, without its users. Raises: ProfileNotFound."""
    if reference.name == DEFAULT and not reference.revision:
        return Profile(DEFAULT, 0, NO_SETTINGS)
    if reference.revision is None:
        found = await session.fetch(f"{_NEWEST} WHERE r.name = $1", reference.name)
    else:
        found = await session.fetch(
            "SELECT * FROM profile_revisions WHERE name = $1 AND revision = $2",
            *(reference.name, reference.revision),
        )
    if not found:
        raise ProfileNotFound(
            f"there is no profile {reference}; list the profiles to see which", field="profile"
        )
    return _to_profile(found[0])


async def newest(session: Session, *, after: str, limit: int) -> list[Profile]:
    """The newest revision of each profile whose name sorts after `after`, by name."""
    found = await session.fetch(
        f"{_NEWEST} WHERE r.name > $1 ORDER BY r.name LIMIT $2", after, limit
    )
    return [_to_profile(row) for row in found]


async def add_revision(session: Session, name: str, settings: EngineProfile) -> None:
    """Stores the next revision; numbers go on after those of a removed profile of this name."""
    found = await session.fetch("SELECT last_revision FROM profiles WHERE name = $1", name)
    revision = found[0]["last_revision"] + 1 if found else 1
    await session.fetch(_PUT_COUNTER, name, revision)
    await session.fetch(
        "INSERT INTO profile_revisions (name, revision, settings, created_at)"
        " VALUES ($1, $2, $3, $4)",
        *(name, revision, settings_text(settings), datetime.now(UTC)),
    )


async def delete(session: Session, name: str) -> None:
    """Removes all revisions of a profile."""
    await session.fetch("DELETE FROM profile_revisions WHERE name = $1", name)


async def users(session: Session) -> Mapping[str, tuple[str, ...]]:
    """The versions that use each profile, as name@version."""
    found = await session.fetch(
        "SELECT model, number, profile FROM versions WHERE profile <> '' ORDER BY model, number"
    )
    by_profile: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for row in found:
        by_profile[row["profile"]] += (f"{row['model']}@{row['number']}",)
    return by_profile


async def has_version(session: Session, model: str, number: int) -> bool:
    """Whether the catalogue has this version."""
    found = await session.fetch(
        "SELECT number FROM versions WHERE model = $1 AND number = $2", model, number
    )
    return bool(found)


def _to_profile(row: Row) -> Profile:
    stored = row["created_at"]
    moment = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    # SQLite stores text without a time zone; every time in the catalogue is UTC.
    created_at = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return Profile(row["name"], row["revision"], to_settings(row["settings"]), created_at)

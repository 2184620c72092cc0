"""The profiles of the catalogue: reading, adding revisions, removing."""

from dataclasses import replace
from functools import partial

from mlxmesh_model.profiles import queries
from mlxmesh_model.profiles.profile import (
    DEFAULT,
    EngineProfile,
    Profile,
    ProfileReference,
    check_draft,
    check_settable,
)
from mlxmesh_shared.errors import IllegalState, ModelNotFound, ProfileNotFound
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable


class Profiles:
    """All profiles; a revision never changes."""

    def __init__(self, transactions: Transactions) -> None:
        self.transactions = transactions

    @uncancellable
    async def profile(self, reference: ProfileReference) -> Profile:
        """One revision of a profile. Raises: ProfileNotFound."""
        return await self.transactions.read(partial(_with_users, reference=reference))

    @uncancellable
    async def profiles(self, *, after: str, limit: int) -> list[Profile]:
        """The newest revision of each profile whose name sorts after `after`, by name."""

        async def read(session: Session) -> list[Profile]:
            users = await queries.users(session)
            found = await queries.newest(session, after=after, limit=limit)
            return [replace(each, used_by=users.get(each.name, ())) for each in found]

        return await self.transactions.read(read)

    @uncancellable
    async def set(self, name: str, settings: EngineProfile) -> Profile:
        """Stores a revision, unless the newest one has these settings; returns the newest.

        Raises: InvalidArgument for the name of the defaults, and for a draft model without its
        setting or the other way round; ModelNotFound for an unknown draft model.
        """
        check_settable(name)
        check_draft(settings)
        reference = ProfileReference(name)
        async with self.transactions.write() as session:
            if settings.draft_model is not None:
                await _check_exists(session, settings.draft_model)
            if await _newest_settings(session, reference) != settings:
                await queries.add_revision(session, name, settings)
            return await _with_users(session, reference)

    @uncancellable
    async def delete(self, name: str) -> None:
        """Removes a profile with all its revisions.

        Raises: ProfileNotFound; InvalidArgument for the defaults; IllegalState while a version
        uses it.
        """
        check_settable(name)
        async with self.transactions.write() as session:
            profile = await _with_users(session, ProfileReference(name))
            if profile.used_by:
                used_by = ", ".join(profile.used_by)
                raise IllegalState(
                    f"{used_by} uses profile {name}; load it with another profile first, or with "
                    f"{DEFAULT}",
                    field="name",
                )
            await queries.delete(session, name)


async def _with_users(session: Session, reference: ProfileReference) -> Profile:
    profile = await queries.find(session, reference)
    return replace(profile, used_by=(await queries.users(session)).get(profile.name, ()))


async def _check_exists(session: Session, draft_model: str) -> None:
    """Raises: ModelNotFound."""
    reference = ModelReference.parse(draft_model)
    if not await queries.has_version(session, reference.name, reference.version or 0):
        raise ModelNotFound(
            f"there is no version {draft_model}; list the models to see which",
            field="settings.draft_model",
        )


async def _newest_settings(session: Session, reference: ProfileReference) -> EngineProfile | None:
    try:
        return (await queries.find(session, reference)).settings
    except ProfileNotFound:
        return None

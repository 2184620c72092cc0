"""What is a service's own about its database."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The tables of one service, and what messages call its database."""

    name: str
    """What messages call the database, such as `the catalogue`."""
    setting: str
    """The setting that names the database, such as `[model] database_url`."""
    remedy: str
    """What else to do about a damaged database than to restore a copy of it."""
    migrations: str
    """The package of Alembic's revisions, such as `mlxmesh_model:migrations`."""
    head: str
    """The newest revision of that package."""
    version_table: str
    """The table that contains the revision; another service's differs, so that two services cannot
    take each other's database for their own."""
    upgrade_lock: int
    """An arbitrary number that is the same in every version of this software, and no other
    service's."""
    writer_lock: str
    """A statement after which PostgreSQL lets other writers wait until the transaction ends."""

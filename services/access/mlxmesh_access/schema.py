"""The access database, as `mlxmesh_shared.sql` needs to know it."""

from mlxmesh_shared.sql.schema import Schema

ACCESS = Schema(
    name="the access database",
    setting="[access] database_url",
    remedy="start with an empty one elsewhere (users, keys and quotas must be created again)",
    migrations="mlxmesh_access:migrations",
    head="0001",
    # Not Alembic's default, which the catalogue has.
    version_table="access_version",
    upgrade_lock=6_518_374_012,
    # Writers wait for each other at the rows that count changes.
    writer_lock="SELECT value FROM counters ORDER BY name FOR UPDATE",
)

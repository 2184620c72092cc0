"""The jobs database, as `mlxmesh_shared.sql` needs to know it."""

from mlxmesh_shared.sql.schema import Schema

JOBS = Schema(
    name="the jobs database",
    setting="[jobs] database_url",
    remedy="start with an empty one elsewhere (jobs, batches and files must be submitted again)",
    migrations="mlxmesh_jobs:migrations",
    head="0002",
    # Not Alembic's default, which the catalogue has.
    version_table="jobs_version",
    upgrade_lock=6_518_374_013,
    # Writers wait for each other at the rows that count changes.
    writer_lock="SELECT value FROM counters ORDER BY name FOR UPDATE",
)

"""The tools database, as `mlxmesh_shared.sql` needs to know it."""

from mlxmesh_shared.sql.schema import Schema

TOOLS = Schema(
    name="the tools database",
    setting="[tools] database_url",
    remedy="start with an empty one elsewhere (MCP servers must be added again)",
    migrations="mlxmesh_tools:migrations",
    head="0001",
    # Not Alembic's default, which the catalogue has.
    version_table="tools_version",
    upgrade_lock=6_518_374_014,
    # Writers wait for each other at the rows that count changes.
    writer_lock="SELECT value FROM counters ORDER BY name FOR UPDATE",
)

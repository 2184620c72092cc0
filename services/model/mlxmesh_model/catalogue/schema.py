"""The catalogue's database, as `mlxmesh_shared.sql` needs to know it."""

from mlxmesh_shared.sql.schema import Schema

CATALOGUE = Schema(
    name="the catalogue",
    setting="[model] database_url",
    remedy="start with an empty one elsewhere (model files remain; register or pull them again)",
    migrations="mlxmesh_model:migrations",
    head="0016",
    version_table="alembic_version",
    upgrade_lock=6_518_374_011,
    # Writers wait for each other at the row that counts changes.
    writer_lock="SELECT value FROM change_counter FOR UPDATE",
)

"""The `mlxmesh` command: a thin shell over the launcher, the client and the settings."""

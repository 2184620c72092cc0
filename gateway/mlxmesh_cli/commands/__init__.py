"""The subcommands of `mlxmesh`."""

"""The command's entry point; says what to install when the extra `cli` is missing."""

from __future__ import annotations

import sys

# Packages of the extra `cli`, by the names that they are imported by.
CLI_PACKAGES = frozenset(
    {"cryptography", "prompt_toolkit", "psutil", "rich", "tomlkit", "typer", "yaml"}
)


def main() -> None:
    """Run the command line."""
    try:
        from mlxmesh_shared.process.interrupt import exit_on_interrupt

        exit_on_interrupt()
        from mlxmesh_cli.commands.app import app
        from mlxmesh_cli.commands.named_command import with_named_command

        with_named_command(app, sys.argv[1:])()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in CLI_PACKAGES:
            raise
        sys.exit(f'error: the command needs {missing}: pip install "mlxmesh[cli]"')


if __name__ == "__main__":
    main()

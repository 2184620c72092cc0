"""A spare engine, which imports its libraries before it knows which model to load."""

import sys

from mlxmesh_engine.service.backends import import_backend
from mlxmesh_engine.service.serve import serve
from mlxmesh_shared.process.standby import STDERR, receive_command
from mlxmesh_shared.settings import EngineSettings, load_settings


async def serve_on_command() -> None:
    """Waits on stdin for a command line, then runs the engine with it; stdout is not redirected."""
    import_backend(load_settings(EngineSettings, sys.argv[1:]))
    if receive_command(STDERR):
        await serve()

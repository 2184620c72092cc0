"""An engine that imports what it needs before it is told which model to load."""

import sys

from mlxmesh_engine.service.backends import import_backend
from mlxmesh_engine.service.serve import serve
from mlxmesh_shared.process.standby import STDERR, receive_command
from mlxmesh_shared.settings import EngineSettings, load_settings


async def serve_when_told() -> None:
    """Wait on stdin for a command line, then be the engine that it names; stdout stays as it is."""
    import_backend(load_settings(EngineSettings, sys.argv[1:]))
    if receive_command(STDERR):
        await serve()

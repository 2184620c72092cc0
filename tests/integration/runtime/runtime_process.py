"""A runtime process as `python -m mlxmesh_runtime`, but with the fake engine as its program."""

import sys

from mlxmesh_runtime.__main__ import serve
from mlxmesh_runtime.engine_command import EngineCommand
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.settings import RuntimeSettings, live_settings

if __name__ == "__main__":
    fake_engine = sys.argv.pop(1)
    live = live_settings(RuntimeSettings, sys.argv[1:])
    command = EngineCommand(mesh=live.current, program=[sys.executable, fake_engine])
    sys.exit(run_service(lambda: serve(live, "runtime-test", command)))

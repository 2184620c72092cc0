"""A runtime process as `python -m mlxmesh_runtime`, but with the fake engine as its program."""

import sys

from mlxmesh_runtime.__main__ import serve
from mlxmesh_runtime.engine_command import EngineCommand
from mlxmesh_shared.process.service_process import start_process
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.settings import RuntimeSettings, live_settings


async def main(fake_engine: str) -> None:
    live = live_settings(RuntimeSettings, sys.argv[1:])
    command = EngineCommand(mesh=live.current, program=[sys.executable, fake_engine])
    await serve(start_process(live, "runtime", instance_id="runtime-test"), command)


if __name__ == "__main__":
    program = sys.argv.pop(1)
    sys.exit(run_service(lambda: main(program)))

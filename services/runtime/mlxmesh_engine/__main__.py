"""The engine process: one model, one backend, one gRPC service."""

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import exit_on_interrupt

    exit_on_interrupt()  # the imports below take a while

import sys

from mlxmesh_engine.service.serve import serve
from mlxmesh_engine.service.spare import serve_on_command
from mlxmesh_shared.process.startup import run_service


async def main() -> None:
    await (serve_on_command() if "--spare" in sys.argv else serve())


if __name__ == "__main__":
    sys.exit(run_service(main))

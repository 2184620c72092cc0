"""The engine process: one model, one MLX thread, one gRPC service."""

import sys
from functools import partial

from mlxmesh_engine.blas import prepare_blas
from mlxmesh_shared.process import run_service


def main() -> int:
    blas = prepare_blas()
    # Imports mlx, whose products resolve to whatever BLAS is loaded by now.
    from mlxmesh_engine.serve import serve

    return run_service(partial(serve, blas))


if __name__ == "__main__":
    sys.exit(main())

"""Writes a model folder from a training checkpoint, while the training goes on.

python deploy/demo-model/export.py --model pocket --output /tmp/demo-model/now
"""

import argparse
from pathlib import Path

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()

from checkpoint import weights  # noqa: E402
from model_folder import CHECKPOINTS, SIZES, export  # noqa: E402


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SIZES, default="pocket", help="which size it is")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS)
    parser.add_argument("--output", type=Path, required=True, help="model folder to write")
    arguments = parser.parse_args()
    trained = weights(arguments.checkpoints / arguments.model)
    export(arguments.model, trained, arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()

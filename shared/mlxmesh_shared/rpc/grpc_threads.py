"""How many threads gRPC's core uses: as few as it can, where that was measured.

It hands every read and write to an "event engine" with threads of its own; docs/decisions/0013.
"""

import os
import sys
from collections.abc import Mapping

_FEWER: Mapping[str, str] = {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener"}


def grpc_environment(*, platform: str = sys.platform) -> Mapping[str, str]:
    """What the environment of a process that serves should have, unless it has its own."""
    return _FEWER if platform == "linux" else {}


def use_fewer_threads() -> None:
    """For this process and its forks; to be called before gRPC is imported, which reads it then."""
    for name, value in grpc_environment().items():
        os.environ.setdefault(name, value)

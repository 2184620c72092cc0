"""Reduces the threads of gRPC's core, on the platforms where that was measured.

By default it runs every read and write on an "event engine" with threads of its own;
docs/decisions/0013.
"""

import os
import sys
from collections.abc import Mapping

_FEWER: Mapping[str, str] = {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener"}


def grpc_environment(*, platform: str = sys.platform) -> Mapping[str, str]:
    """Environment variables for a service process; values that it has already take precedence."""
    return _FEWER if platform == "linux" else {}


def use_fewer_threads() -> None:
    """Configures this process and its forks; must be called before gRPC is imported."""
    for name, value in grpc_environment().items():
        os.environ.setdefault(name, value)

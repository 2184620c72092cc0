"""Imports mlx-lm without the side effects that an engine does not need.

Its libraries for tokenizing and downloading would take most of an engine's start time. Its import
also sets the limit of open files, which fails if the hard limit is below 4096.
"""

import importlib
import resource
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_UNUSED = ("transformers", "transformers.tokenization_utils_base", "huggingface_hub")


class _Unused:
    """Replaces every class and function of these libraries while mlx-lm is imported."""

    @classmethod
    def register(cls, *_: Any, **__: Any) -> None:
        """Called by mlx-lm to register its tokenizer with AutoTokenizer."""


class _UnusedModule(ModuleType):
    def __getattr__(self, name: str) -> type[_Unused]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused


def import_mlx_lm() -> None:
    """Imports `mlx_lm`; its functions that need a tokenizer do not work afterwards.

    Only for engine processes; the BLAS must be loaded before.
    """
    with _stand_ins(), _unchanged_limits():
        for name in ("mlx_lm.utils", "mlx_lm.models.cache"):
            importlib.import_module(name)


@contextmanager
def _stand_ins() -> Generator[None]:
    """Installs stand-ins, while the body runs, for libraries that are not imported already."""
    added = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update({name: _UnusedModule(name) for name in added})
    try:
        yield
    finally:
        # An architecture that needs one of them imports the real one.
        for name in added:
            del sys.modules[name]


def _ignore_limits(which: int, limits: tuple[int, int]) -> None:
    """Replaces `setrlimit`."""


@contextmanager
def _unchanged_limits() -> Generator[None]:
    """While the body runs, an imported `resource` cannot set limits."""
    read_only = ModuleType("resource")
    vars(read_only).update(vars(resource) | {"setrlimit": _ignore_limits})
    sys.modules["resource"] = read_only
    try:
        yield
    finally:
        sys.modules["resource"] = resource

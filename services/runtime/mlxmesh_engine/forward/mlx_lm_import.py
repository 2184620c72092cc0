"""Imports mlx-lm without what its import does that an engine does not want.

The libraries that it tokenizes and downloads with take most of the time that an engine needs to
start. It also sets the limits of open files, which fails where the hard limit is below 4096.
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
    """Stands for every class and function of them while mlx-lm's modules are executed."""

    @classmethod
    def register(cls, *_: Any, **__: Any) -> None:
        """mlx-lm registers a tokenizer of its own with AutoTokenizer."""


class _UnusedModule(ModuleType):
    def __getattr__(self, name: str) -> type[_Unused]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused


def import_mlx_lm() -> None:
    """From here on `mlx_lm` is imported, and its functions that need a tokenizer do not work.

    Only for a process that is an engine and nothing else; its BLAS must be loaded before.
    """
    with _stand_ins(), _limits_kept():
        for name in ("mlx_lm.utils", "mlx_lm.models.cache"):
            importlib.import_module(name)


@contextmanager
def _stand_ins() -> Generator[None]:
    """Stand-ins while the body runs, for those that are not imported already."""
    added = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update({name: _UnusedModule(name) for name in added})
    try:
        yield
    finally:
        # A model's architecture that does need one of them gets the real one.
        for name in added:
            del sys.modules[name]


def _set_nothing(which: int, limits: tuple[int, int]) -> None:
    """In place of `setrlimit`."""


@contextmanager
def _limits_kept() -> Generator[None]:
    """While the body runs, who imports `resource` gets one that sets no limits."""
    reads_only = ModuleType("resource")
    vars(reads_only).update(vars(resource) | {"setrlimit": _set_nothing})
    sys.modules["resource"] = reads_only
    try:
        yield
    finally:
        sys.modules["resource"] = resource

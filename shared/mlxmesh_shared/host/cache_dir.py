"""The user's cache directory."""

import os
from pathlib import Path


class NoCacheDir(OSError):
    """The user has no home directory, and XDG_CACHE_HOME is not set."""


def default_cache_dir() -> Path:
    """The directory for downloaded files: `mlxmesh` in XDG_CACHE_HOME or ~/.cache.

    Raises: NoCacheDir.
    """
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "mlxmesh"
    try:
        return Path.home() / ".cache" / "mlxmesh"
    except RuntimeError as error:
        raise NoCacheDir("no home directory for the cache; set XDG_CACHE_HOME") from error

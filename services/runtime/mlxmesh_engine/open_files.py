"""How many files an engine may have open; Linux and macOS."""

import resource
import sys

WANTED_OPEN_FILES = 2048
"""All files of a model are open while it is loaded, and large models have hundreds."""


def raise_open_files(wanted: int = WANTED_OPEN_FILES) -> int:
    """Raises this process's limit to `wanted` as far as the hard limit lets it; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _number(soft) < wanted:
        soft = min(wanted, _number(hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return _number(soft)


def _number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit

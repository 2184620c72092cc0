"""Copies prefilled rows for sequences with the same prompt."""

import logging
from collections.abc import Mapping

from mlxmesh_engine.cache.kv_cache import Batching, RowsCache
from mlxmesh_engine.scheduling.sequence import ActiveSequence

_log = logging.getLogger(__name__)


def copy_rows(
    cache: RowsCache, followers: Mapping[ActiveSequence, int], batching: Batching
) -> list[tuple[list[ActiveSequence], RowsCache]]:
    """Caches for the sequences that need a copy of a row, each with the sequences of its rows.

    None if this cache cannot be copied; then they must be prefilled.
    """
    if not followers:
        return []
    try:
        if batching is Batching.ALONE:
            return [([active], cache.copy_rows([row])) for active, row in followers.items()]
        return [([*followers], cache.copy_rows([*followers.values()]))]
    except Exception:  # noqa: BLE001 - MLX may raise anything
        _log.exception("a prefilled prompt could not be copied")
        return []

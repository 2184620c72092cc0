"""Waits for what a request needs before an engine can have it: a tokenizer, and a replica."""

from __future__ import annotations

import asyncio
import time
from math import inf

from mlxmesh_generation.domain.catalogue import ModelVersion, Route
from mlxmesh_generation.placement.engines import Replicas
from mlxmesh_generation.streams.submission import DEADLINE_MARGIN_S
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_generation.text.tokenizers import Tokenizers
from mlxmesh_shared.errors import ModelNotLoaded, ServiceUnavailable

# An engine that is starting or restarting may connect within this time.
REPLICA_WAIT_S = 2.0
# Between two attempts to get a tokenizer while the model service is away.
TOKENIZER_RETRY_S = 0.25


class Loads:
    """What loads models on demand, for requests of every kind."""

    def __init__(self, tokenizers: Tokenizers, replicas: Replicas) -> None:
        self._tokenizers = tokenizers
        self._replicas = replicas

    def check(self, route: Route) -> None:
        """Raises: ModelNotLoaded where a request cannot wait for a load."""
        version = route.version
        if not route.loading.on_demand and not self._replicas.expected(version):
            raise ModelNotLoaded(
                f"model {version} is registered but not loaded; run `mlxmesh load {version}`",
                field="model",
            )

    async def tokenizer(
        self, route: Route, received_s: float, timeout_s: float | None
    ) -> ModelTokenizer:
        """That of a version, for which a request that waits for a load waits too."""
        loading, version = route.loading, route.version
        wait_s = loading.timeout_s if timeout_s is None else min(loading.timeout_s, timeout_s)
        while True:
            try:
                return await self._tokenizers.get(version)
            except ServiceUnavailable:
                late = time.monotonic() + TOKENIZER_RETRY_S >= received_s + wait_s
                if late or not loading.on_demand or self._replicas.connected(version):
                    raise
            await asyncio.sleep(TOKENIZER_RETRY_S)

    async def wait_connected(
        self, version: ModelVersion, *, load_timeout_s: float | None, deadline_s: float | None
    ) -> None:
        """Returns once an engine is connected; a model that is not loaded on demand is given only a
        short time.

        load_timeout_s: None for such a model. deadline_s: in time.monotonic().
        Raises: why the model will not be loaded; NoReplica when it takes too long.
        """
        left_s = inf if deadline_s is None else deadline_s - time.monotonic()
        if load_timeout_s is None:
            wait_s = max(0.0, min(REPLICA_WAIT_S, left_s / 2))
            await self._replicas.wait_connected(version, wait_s)
        else:
            wait_s = max(0.0, min(load_timeout_s, left_s - DEADLINE_MARGIN_S))
            await self._replicas.wait_loaded(version, wait_s)

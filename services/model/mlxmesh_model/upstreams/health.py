"""Checks the health of upstreams that are switched on, for as long as this process leads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from mlxmesh_model.catalogue.models import PLACEMENT_RETRY_S, FailureRecord, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.catalogue.upstream import Upstream
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.openai_upstream.address import KeyReference
from mlxmesh_shared.openai_upstream.client import Upstream as Server
from mlxmesh_shared.openai_upstream.client import UpstreamClient

_log = logging.getLogger(__name__)

Check = Callable[[str, Upstream], Awaitable[None]]
"""Checks the upstream of a version, by its label. Raises: MeshError with what is wrong."""


async def check_upstream(label: str, upstream: Upstream) -> None:
    """Whether it answers, takes the key, and has the model. Raises: MeshError."""
    server = Server(name=label, base_url=upstream.base_url, key=KeyReference(upstream.key))
    client = UpstreamClient(server)
    try:
        await client.check(upstream.model_id)
    finally:
        await client.close()


class UpstreamHealth:
    """Records in the catalogue what checks find: at once after a change, then every few seconds."""

    def __init__(
        self,
        store: Store,
        *,
        check: Check = check_upstream,
        interval_s: float = PLACEMENT_RETRY_S,
    ) -> None:
        """The interval is what callers are told about retries of failed versions."""
        self._store = store
        self._check = check
        self._interval_s = interval_s
        self._checked: dict[str, int] = {}
        """The intents that were checked, by label: a new one is due at once."""

    async def run(self) -> None:
        """Checks until it is cancelled."""
        with self._store.subscribe() as changed:
            while True:
                changed.clear()
                try:
                    versions = await self._switched_on()
                    await self._check_all(versions)
                except MeshError as error:
                    _log.warning("upstreams were not checked: %s", error.message)
                    versions = []
                await self._wait(changed, idle=not versions)

    async def _wait(self, changed: asyncio.Event, *, idle: bool) -> None:
        """Returns when a check is due; without an upstream, that needs a change."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if idle else self._interval_s):
                while True:
                    await changed.wait()
                    changed.clear()
                    if any(self._is_new(each) for each in await self._switched_on()):
                        return

    async def _switched_on(self) -> list[Version]:
        return [
            version
            for model in await self._store.models()
            for version in model.versions
            if version.upstream is not None and version.desired_replicas
        ]

    def _is_new(self, version: Version) -> bool:
        return self._checked.get(version.label) != version.intent

    async def _check_all(self, versions: Iterable[Version]) -> None:
        self._checked = {version.label: version.intent for version in versions}
        await asyncio.gather(*map(self._check_one, versions))

    async def _check_one(self, version: Version) -> None:
        assert version.upstream is not None
        failure = None
        try:
            await self._check(version.label, version.upstream)
        except MeshError as error:
            failure = FailureRecord.of(error)
        if version.with_health(failure) == version:
            return
        if await self._store.record_health(version, failure):
            _log.info(
                "the upstream of %s is %s",
                version.label,
                f"not healthy: {failure.message}" if failure else "healthy",
            )

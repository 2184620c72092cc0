"""Settings in Consul's key-value store: `PREFIX/config/SECTION/SETTING`."""

import logging
from collections.abc import AsyncGenerator, Mapping
from functools import partial

from mlxmesh_shared.consul.agent import ConsulAgent
from mlxmesh_shared.consul.blocking import BlockingQuery
from mlxmesh_shared.settings.consul import ConsulSettings

_log = logging.getLogger(__name__)


class ConsulConfigStore:
    """Satisfies ConfigStore; one per process, made on the event loop that uses it."""

    def __init__(self, settings: ConsulSettings) -> None:
        self._agent = ConsulAgent(settings)
        self._folder = f"{settings.prefix}/config/"

    async def read(self) -> Mapping[str, str]:
        _, content = await self._agent.values(self._folder, 0, 0)
        return content

    async def watch(self) -> AsyncGenerator[Mapping[str, str], None]:
        query = BlockingQuery[Mapping[str, str]]()
        last: Mapping[str, str] | None = None
        lost = False
        while True:
            content = await query.next(partial(self._agent.values, self._folder))
            if query.went_back and not content and not lost:
                _log.warning("Consul lost its keys; the settings stay until some are set again")
            lost = (lost or query.went_back) and not content
            if not lost and content != last:
                last = content
                yield content

    async def close(self) -> None:
        await self._agent.close()

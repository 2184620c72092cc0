"""Dynamic settings from Consul's key-value store: `PREFIX/config/SECTION/SETTING`."""

import logging
from collections.abc import Mapping
from typing import TypeVar

from mlxmesh_shared.consul.agent import ConsulAgent
from mlxmesh_shared.consul.blocking import BlockingQuery
from mlxmesh_shared.settings import SETTINGS, LiveSettings, MeshSettings
from mlxmesh_shared.settings.consul import ConsulSettings

_log = logging.getLogger(__name__)

S = TypeVar("S", bound=MeshSettings)


async def read_stored(settings: ConsulSettings) -> Mapping[str, Mapping[str, str]]:
    """What the store says now: section to setting to text. Raises: RegistryUnavailable."""
    agent = ConsulAgent(settings)
    try:
        _, values = await agent.values(_folder(settings), 0, 0)
    finally:
        await agent.close()
    return {section: section_values(values, section) for section in SETTINGS}


async def follow_stored(live: LiveSettings[S], section: str) -> None:
    """Has the settings follow the store until cancelled; without Consul they stay as they are."""
    settings = live.current
    agent = ConsulAgent(settings)
    query = BlockingQuery()
    lost = False
    try:
        while True:
            values = await query.next(
                lambda index, wait_s: agent.values(_folder(settings), index, wait_s)
            )
            if query.went_back and not values and not lost:
                _log.warning("Consul lost its keys; the settings stay until some are set again")
            lost = (lost or query.went_back) and not values
            if not lost:
                live.apply(section_values(values, section))
    finally:
        await agent.close()


def section_values(values: Mapping[str, str], section: str) -> dict[str, str]:
    """The settings of a section: the mesh's own first, the section's above them."""
    return _below(values, "mesh/") | _below(values, f"{section}/")


def _below(values: Mapping[str, str], folder: str) -> dict[str, str]:
    # A key that ends in a slash is a folder, as Consul's own pages make them.
    return {
        key.removeprefix(folder): text
        for key, text in values.items()
        if key.startswith(folder) and key != folder
    }


def _folder(settings: ConsulSettings) -> str:
    return f"{settings.consul_prefix}/config/"

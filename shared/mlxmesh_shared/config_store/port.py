"""The port of the configuration store, and the store of a mesh without one."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Protocol


class ConfigStore(Protocol):
    """What every adapter guarantees; tests/contract/test_config_store.py checks it.

    The content maps keys, SECTION/SETTING, to the settings' values as text.
    """

    async def read(self) -> Mapping[str, str]:
        """The current content. Raises: RegistryUnavailable."""
        ...

    def watch(self) -> AsyncGenerator[Mapping[str, str], None]:
        """Yields the current content, then the whole content after each change, until closed.

        While the store cannot be reached, or has lost its content, the last content stays valid.
        """
        ...

    async def close(self) -> None:
        """Releases the store's connections."""
        ...


class NoConfigStore:
    """Satisfies ConfigStore: it is empty and never changes."""

    async def read(self) -> Mapping[str, str]:
        return {}

    async def watch(self) -> AsyncGenerator[Mapping[str, str], None]:
        yield {}
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass

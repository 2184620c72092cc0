"""A configuration store for meshes without one."""

import asyncio
from collections.abc import AsyncGenerator, Mapping


class NoConfigStore:
    """Satisfies ConfigStore: it is empty and never changes."""

    async def read(self) -> Mapping[str, str]:
        return {}

    async def watch(self) -> AsyncGenerator[Mapping[str, str], None]:
        yield {}
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass

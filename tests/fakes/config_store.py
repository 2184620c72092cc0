"""A configuration store in this process."""

import asyncio
from collections.abc import AsyncGenerator, Mapping


class InMemoryConfigStore:
    """Satisfies ConfigStore; tests set and remove its keys."""

    def __init__(self) -> None:
        self._content: dict[str, str] = {}
        self._changed = asyncio.Event()

    async def read(self) -> Mapping[str, str]:
        return dict(self._content)

    async def watch(self) -> AsyncGenerator[Mapping[str, str], None]:
        last: Mapping[str, str] | None = None
        while True:
            changed = self._changed
            if self._content != last:
                last = dict(self._content)
                yield last
            else:
                await changed.wait()

    async def close(self) -> None:
        pass

    async def put(self, key: str, text: str) -> None:
        self._content[key] = text
        self._wake()

    async def remove_keys(self) -> None:
        self._content.clear()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

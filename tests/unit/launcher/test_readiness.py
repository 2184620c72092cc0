"""How long the launcher waits for a process to serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import pytest

from mlxmesh_launcher.child import Child
from mlxmesh_launcher.readiness import START_TIMEOUT_S, SUCCESSOR_TIMEOUT_S, until_serving
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.registry import Instance, Registry


class Starting:
    """A process that is not registered yet, and a registry without it."""

    name = "model"
    pid = 7

    async def ended(self) -> None:
        await asyncio.Event().wait()

    def log_tail(self) -> str:
        return "importing"

    async def watch(self, service: str) -> AsyncGenerator[Sequence[Instance]]:
        assert service == self.name
        yield ()
        await asyncio.Event().wait()


async def test_the_wait_is_bounded_by_what_the_caller_says() -> None:
    process: Any = Starting()
    with pytest.raises(ServiceUnavailable, match=r"model did not serve within 0.02 s: importing"):
        await until_serving(cast("Child", process), cast("Registry", process), 0.02)


def test_a_successor_has_longer_as_its_predecessor_serves() -> None:
    assert SUCCESSOR_TIMEOUT_S > START_TIMEOUT_S

"""The mirror follows its source, and outlives it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mlxmesh_generation.domain.catalogue import CatalogueChange, Model, ModelVersion
from mlxmesh_generation.placement.mirror import CatalogueMirror
from mlxmesh_shared.errors import ModelNotFound, ServiceUnavailable
from mlxmesh_shared.reference import ModelReference


def model(name: str, version: int = 1) -> Model:
    return Model(name, {version: ModelVersion(name, version, "", 1024, 300, 1)}, version)


class ScriptedSource:
    """Each watch gives the next script, then breaks, or stays open after the last one."""

    def __init__(self, *scripts: list[CatalogueChange]) -> None:
        self._scripts = list(scripts)
        self.after: list[int] = []
        self.exhausted = asyncio.Event()

    async def watch(self, after_sequence: int) -> AsyncGenerator[CatalogueChange]:
        self.after.append(after_sequence)
        for change in self._scripts.pop(0):
            yield change
        if not self._scripts:
            self.exhausted.set()
            await asyncio.Event().wait()
        raise ServiceUnavailable("broken")


@asynccontextmanager
async def following(source: ScriptedSource) -> AsyncIterator[CatalogueMirror]:
    """A mirror that has come as far as the source's last script."""
    mirror = CatalogueMirror(source, retry_s=0.001, first_sync_wait_s=0.05)
    task = asyncio.create_task(mirror.run())
    try:
        async with asyncio.timeout(30):
            await source.exhausted.wait()
        yield mirror
    finally:
        task.cancel()


async def number(mirror: CatalogueMirror, name: str) -> int:
    return (await mirror.resolve(ModelReference(name))).version


SYNCED = CatalogueChange(5, synced=True)


async def test_models_are_known_once_synced() -> None:
    async with following(
        ScriptedSource([CatalogueChange(5, model=model("pocket")), SYNCED])
    ) as mirror:
        assert await number(mirror, "pocket") == 1


async def test_before_the_first_sync_it_says_to_try_again() -> None:
    async with following(ScriptedSource([CatalogueChange(5, model=model("pocket"))])) as mirror:
        with pytest.raises(ServiceUnavailable) as caught:
            await number(mirror, "pocket")
    assert caught.value.retry_delay_s


async def test_a_broken_watch_goes_on_after_the_last_change() -> None:
    first = [
        CatalogueChange(4, model=model("pocket")),
        SYNCED,
        CatalogueChange(6, model=model("b")),
    ]
    second = [CatalogueChange(7, model=model("pocket", 2)), CatalogueChange(7, synced=True)]
    source = ScriptedSource(first, second)
    async with following(source) as mirror:
        assert source.after == [0, 6]
        assert await number(mirror, "pocket") == 2
        assert await number(mirror, "b") == 1


async def test_a_listing_that_broke_begins_again() -> None:
    first = [CatalogueChange(4, model=model("gone"))]
    second = [CatalogueChange(6, model=model("pocket")), CatalogueChange(6, synced=True)]
    source = ScriptedSource(first, second)
    async with following(source) as mirror:
        assert source.after == [0, 0]
        assert await number(mirror, "pocket") == 1
        with pytest.raises(ModelNotFound):
            await number(mirror, "gone")


async def test_the_last_known_catalogue_outlives_the_source() -> None:
    known = [CatalogueChange(5, model=model("pocket")), SYNCED]
    async with following(ScriptedSource(known, [], [])) as mirror:
        assert await number(mirror, "pocket") == 1


async def test_removals_arrive() -> None:
    known = [CatalogueChange(5, model=model("pocket")), SYNCED]
    async with following(
        ScriptedSource([*known, CatalogueChange(6, removed_name="pocket")])
    ) as mirror:
        with pytest.raises(ModelNotFound):
            await number(mirror, "pocket")


async def test_a_catalogue_that_began_again_forgets_what_it_lacks() -> None:
    before = [
        CatalogueChange(8, model=model("gone")),
        CatalogueChange(9, model=model("pocket")),
        CatalogueChange(9, synced=True),
    ]
    after = [CatalogueChange(2, model=model("pocket", 2)), CatalogueChange(2, synced=True)]
    source = ScriptedSource(before, after, [])
    async with following(source) as mirror:
        assert source.after == [0, 9, 2]
        assert await number(mirror, "pocket") == 2
        with pytest.raises(ModelNotFound):
            await number(mirror, "gone")

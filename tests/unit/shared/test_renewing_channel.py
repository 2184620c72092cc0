"""A channel that changes its certificates between calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_shared.tls.renewing_channel import RenewingChannel
from tests.fakes.certificates import issue_all, source


class FakeCall:
    def __init__(self) -> None:
        self._when_done: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._when_done.append(callback)

    def end(self) -> None:
        for callback in self._when_done:
            callback(self)


class FakeChannel:
    def __init__(self) -> None:
        self.closed = False
        self.calls: list[FakeCall] = []

    def unary_unary(self, path: str) -> Callable[[bytes], FakeCall]:
        def start(_request: bytes) -> FakeCall:
            self.calls.append(FakeCall())
            return self.calls[-1]

        return start

    async def close(self, grace: float | None = None) -> None:
        self.closed = True


class Stand:
    def __init__(self, tls_dir: Path) -> None:
        self.authority = issue_all(tls_dir)
        self.opened: list[FakeChannel] = []
        self.channel = RenewingChannel(source(tls_dir, "gateway"), self._open)
        self.method = self.channel.unary_unary("/service/Method")

    def _open(self, _credentials: Any) -> Any:
        self.opened.append(FakeChannel())
        return self.opened[-1]

    def rotate(self) -> None:
        self.authority.renew(["gateway"])


@pytest.fixture
async def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


async def test_calls_share_a_connection_while_nothing_changes(stand: Stand) -> None:
    stand.method(b"")
    stand.method(b"")

    assert [len(channel.calls) for channel in stand.opened] == [2]


async def test_a_method_that_was_made_before_uses_the_new_certificates(stand: Stand) -> None:
    stand.method(b"")
    stand.rotate()
    stand.method(b"")

    assert [len(channel.calls) for channel in stand.opened] == [1, 1]


async def test_the_connection_before_closes_with_its_last_call(stand: Stand) -> None:
    first, second = stand.method(b""), stand.method(b"")
    stand.rotate()
    stand.method(b"")
    before, now = stand.opened

    first.end()
    await asyncio.sleep(0)
    assert not before.closed
    second.end()
    await asyncio.sleep(0)
    assert before.closed
    assert not now.closed


async def test_an_idle_connection_closes_at_once(stand: Stand) -> None:
    stand.rotate()
    stand.method(b"")
    await asyncio.sleep(0)

    assert [channel.closed for channel in stand.opened] == [True, False]


async def test_closing_closes_every_connection(stand: Stand) -> None:
    stand.method(b"")
    stand.rotate()
    stand.method(b"")

    await stand.channel.close()

    assert [channel.closed for channel in stand.opened] == [True, True]

"""Passwords: argon2id, equal work for unknown names, a new hash when the cost changes, bounded."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from mlxmesh_access.sign_in.passwords import HashCost, Passwords
from mlxmesh_shared.errors import TooManyRequests

CHEAP = HashCost(memory_kib=64, passes=1, lanes=1)
PASSWORD = "correct horse battery staple"


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords(CHEAP)
    yield passwords
    passwords.close()


async def test_only_the_password_itself_is_right(passwords: Passwords) -> None:
    stored = await passwords.hash(PASSWORD)
    assert stored.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert await passwords.matches(stored, PASSWORD)
    for wrong in ("", PASSWORD[:-1], PASSWORD + " ", PASSWORD.upper(), stored):
        assert not await passwords.matches(stored, wrong)


async def test_equal_passwords_have_different_hashes(passwords: Passwords) -> None:
    assert await passwords.hash(PASSWORD) != await passwords.hash(PASSWORD)


async def test_without_a_hash_every_password_is_wrong(passwords: Passwords) -> None:
    for password in ("", PASSWORD):
        assert not await passwords.matches("", password)


async def test_without_a_hash_the_same_work_is_done() -> None:
    """Compares the threads' CPU time, which other load does not change."""
    passwords = Passwords(HashCost(memory_kib=8 * 1024, passes=4, lanes=1), max_concurrent=1)
    stored = await passwords.hash(PASSWORD)

    async def work_s(stored: str) -> float:
        before_s = time.process_time()
        for _ in range(5):
            await passwords.matches(stored, "wrong")
        return time.process_time() - before_s

    await work_s("")
    known_s, unknown_s = await work_s(stored), await work_s("")
    passwords.close()
    assert 0.5 < known_s / unknown_s < 2


async def test_composed_characters_do_not_depend_on_the_keyboard(passwords: Passwords) -> None:
    stored = await passwords.hash("Fu\u0308hlung 8")
    assert await passwords.matches(stored, "F\u00fchlung 8")


async def test_long_passwords_count_to_their_end(passwords: Passwords) -> None:
    stored = await passwords.hash("\U0001f511" * 256)
    assert await passwords.matches(stored, "\U0001f511" * 256)
    assert not await passwords.matches(stored, "\U0001f511" * 255 + "x")


async def test_a_hash_of_another_cost_is_outdated_and_still_matches(passwords: Passwords) -> None:
    stored = await passwords.hash(PASSWORD)
    assert not passwords.is_outdated(stored)
    dearer = Passwords(HashCost(memory_kib=128, passes=2, lanes=1))
    assert dearer.is_outdated(stored)
    assert await dearer.matches(stored, PASSWORD)
    assert not await dearer.matches(stored, "wrong")
    assert (await dearer.hash(PASSWORD)).startswith("$argon2id$v=19$m=128,t=2,p=1$")
    dearer.close()


async def test_the_event_loop_runs_meanwhile_on_a_bounded_number_of_threads() -> None:
    passwords = Passwords(HashCost(memory_kib=32 * 1024, passes=2, lanes=1), max_concurrent=2)
    stored = await passwords.hash(PASSWORD)
    verifying = asyncio.gather(*(passwords.matches(stored, PASSWORD) for _ in range(8)))
    turns = 0
    while not verifying.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 8
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("passwords")]
    assert len(threads) == 2
    passwords.close()


async def test_more_than_may_wait_are_refused_with_a_delay_and_cancelled_ones_make_room() -> None:
    passwords = Passwords(
        HashCost(memory_kib=32 * 1024, passes=2, lanes=1), max_concurrent=1, max_waiting=2
    )
    waiting = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests) as refused:
        await passwords.hash(PASSWORD)
    assert refused.value.retry_delay_s == 1
    assert PASSWORD not in refused.value.message
    waiting[2].cancel()
    await asyncio.wait([waiting[2]])
    assert (await passwords.hash(PASSWORD)).startswith("$argon2id$")
    await asyncio.gather(*waiting[:2])
    passwords.close()


def test_the_default_cost_is_that_of_the_rfc() -> None:
    assert HashCost() == HashCost(memory_kib=65536, passes=3, lanes=4)


def test_the_library_is_imported_when_it_is_first_needed() -> None:
    check = "assert not [name for name in sys.modules if name.startswith('argon2')]"
    code = (
        f"import sys\nfrom mlxmesh_access.sign_in.passwords import Passwords\nPasswords()\n{check}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

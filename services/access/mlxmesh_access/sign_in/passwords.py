"""Passwords, hashed with argon2id on threads of their own, a bounded number at a time.

Source: RFC 9106 (argon2), RFC 8265 section 4.2 (normalization).
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from mlxmesh_access.sign_in.throttle import OLD_PASSWORDS, Throttle
from mlxmesh_shared.errors import MeshError, TooManyRequests

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MAX_CONCURRENT = 2
MAX_WAITING = 64
_SALT_BYTES = 16
_HASH_BYTES = 32
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class HashCost:
    """What hashing one password costs. Default: the second choice of RFC 9106, section 4."""

    memory_kib: int = 64 * 1024
    passes: int = 3
    lanes: int = 4


class Passwords:
    """Hashes and verifies passwords; the hashes contain salt and cost."""

    def __init__(
        self,
        cost: HashCost | None = None,
        *,
        max_concurrent: int = MAX_CONCURRENT,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._cost = cost or HashCost()
        self._max_calls = max_concurrent + max_waiting
        self._calls = 0
        # Its threads start when they are first needed.
        self._threads = ThreadPoolExecutor(max_concurrent, thread_name_prefix="passwords")

    def close(self) -> None:
        """Drops what waits, and ends the threads after what they do."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """A hash to store. Raises: TooManyRequests while too many wait."""
        return await self._on_thread(lambda: self._hasher.hash(_normalized(password)))

    async def matches(self, password_hash: str, password: str) -> bool:
        """Whether the password has this hash. Without a hash (""), it takes as long and is False.

        Raises: TooManyRequests while too many wait.
        """
        return await self._on_thread(lambda: self._matches(password_hash, _normalized(password)))

    def is_outdated(self, password_hash: str) -> bool:
        """Whether hashing costs something else today than when this hash was made."""
        return self._hasher.check_needs_rehash(password_hash)

    def _matches(self, password_hash: str, password: str) -> bool:
        from argon2.exceptions import VerifyMismatchError

        try:
            return self._hasher.verify(password_hash or self._nobodys_hash, password)
        except VerifyMismatchError:
            return False

    async def _on_thread(self, work: Callable[[], _Result]) -> _Result:
        if self._calls >= self._max_calls:
            raise TooManyRequests("too many passwords are being verified", retry_delay_s=1)
        self._calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._calls -= 1

    @cached_property
    def _hasher(self) -> PasswordHasher:
        from argon2 import PasswordHasher, Type

        return PasswordHasher(
            time_cost=self._cost.passes,
            memory_cost=self._cost.memory_kib,
            parallelism=self._cost.lanes,
            hash_len=_HASH_BYTES,
            salt_len=_SALT_BYTES,
            type=Type.ID,
        )

    @cached_property
    def _nobodys_hash(self) -> str:
        """A hash of this cost that no known password has."""
        cost = f"m={self._cost.memory_kib},t={self._cost.passes},p={self._cost.lanes}"
        return f"$argon2id$v=19${cost}${_random(_SALT_BYTES)}${_random(_HASH_BYTES)}"


class ThrottledPasswords:
    """Passwords whose wrong guesses at one hash are delayed more and more."""

    def __init__(
        self, passwords: Passwords, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._passwords = passwords
        self._throttle = Throttle(OLD_PASSWORDS)
        self._monotonic = monotonic

    async def hash(self, password: str) -> str:
        """A hash to store. Raises: TooManyRequests while too many wait."""
        return await self._passwords.hash(password)

    async def matches(self, password_hash: str, password: str) -> bool:
        """As Passwords.matches. Raises: TooManyRequests, also after several wrong guesses."""
        self._throttle.begin(password_hash, self._monotonic())
        try:
            right = await self._passwords.matches(password_hash, password)
        except MeshError:
            self._throttle.abandoned(password_hash)
            raise
        if right:
            self._throttle.succeeded(password_hash)
        return right


def _normalized(password: str) -> str:
    """The same text for the same password from keyboards that compose characters differently."""
    return unicodedata.normalize("NFC", password)


def _random(size: int) -> str:
    return base64.b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()

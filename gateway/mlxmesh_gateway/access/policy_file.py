"""The last policies on disk, with which a gateway goes on while no access service answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

from mlxmesh_gateway.access import convert
from mlxmesh_gateway.access.policies import Policies, PolicyChange
from mlxmesh_shared.errors import IllegalState

_log = logging.getLogger(__name__)

FILE_NAME = "gateway-policies.json"


class PolicyFile:
    """Keeps the newest policies; has hashes of keys, and no secret.

    Gateways of one data directory share the file: each writes what it knows, whole.
    """

    def __init__(self, data_dir: Path, policies: Policies) -> None:
        self._path = data_dir / FILE_NAME
        self._policies = policies
        self._changed = asyncio.Event()

    def load(self) -> None:
        """Makes the policies those that were kept, if any were.

        Raises: IllegalState for a file that cannot be read: without it the mesh could be open.
        """
        try:
            self._policies.apply(convert.from_json(self._path.read_bytes()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise IllegalState(
                f"{self._path} cannot be read, and it may say that callers must authenticate;"
                " repair it, or remove it if the access service is running"
            ) from error

    def keep(self) -> None:
        """Writes the policies shortly."""
        self._changed.set()

    async def run(self) -> None:
        """Writes what is to be kept, until cancelled."""
        while True:
            await self._changed.wait()
            await self.write()

    async def write(self) -> None:
        """Writes now what was not written yet."""
        if not self._changed.is_set():
            return
        self._changed.clear()
        policies = self._policies.whole()
        try:
            await asyncio.to_thread(self._write, policies)
        except OSError as error:
            _log.error("policies could not be kept in %s: %s", self._path, error.strerror)

    def _write(self, policies: PolicyChange) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_private(self._path, convert.to_json(policies))


def write_private(path: Path, content: bytes) -> None:
    """Replaces a file by one that only this user may read, atomically."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise

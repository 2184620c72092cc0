"""The key or session that this command line uses for a mesh, in a file that only its owner reads.

For a mesh that is found by its data directory it is `credentials.json` there; for one that is
found by its address, `~/.config/mlxmesh/credentials.json` ($XDG_CONFIG_HOME), by that address.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from mlxmesh_shared.errors import IllegalState

FILE_NAME = "credentials.json"
LOCAL_MESH = "local"
"""The name of the only mesh in the file of a data directory."""


@dataclass(frozen=True)
class StoredKey:
    """An API key."""

    user: str
    key_id: str
    key: str


@dataclass(frozen=True)
class StoredSession:
    """The tokens of a session; times are in seconds since the epoch."""

    user: str
    access_token: str
    access_expires_s: float
    refresh_token: str
    refresh_expires_s: float


Credential = StoredKey | StoredSession


class CredentialFile:
    """The credential of one mesh."""

    def __init__(self, path: Path, mesh: str) -> None:
        """`mesh` is its name in the file, which may hold those of several meshes."""
        self.path = path
        self._mesh = mesh

    @classmethod
    def of_data_dir(cls, data_dir: Path) -> CredentialFile:
        """That of the mesh that runs in a data directory."""
        return cls(data_dir / FILE_NAME, LOCAL_MESH)

    @classmethod
    def of_address(cls, address: str) -> CredentialFile:
        """That of the mesh whose gateway has this address."""
        config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
        return cls(Path(config).expanduser() / "mlxmesh" / FILE_NAME, address)

    def read(self) -> Credential | None:
        """The credential; None without one, or in somebody else's file. Raises: IllegalState."""
        found = self._entries().get(self._mesh)
        try:
            if isinstance(found, dict):
                fields = cast("dict[str, Any]", found)
                return StoredKey(**fields) if "key" in fields else StoredSession(**fields)
        except TypeError:
            raise self._damaged() from None
        return None

    def write(self, credential: Credential) -> None:
        """Stores a credential in place of the last one. Raises: OSError, IllegalState."""
        self._replace({**self._entries(), self._mesh: asdict(credential)})

    def remove(self) -> None:
        """Forgets the credential. Raises: OSError, IllegalState."""
        entries = {name: one for name, one in self._entries().items() if name != self._mesh}
        if entries:
            self._replace(entries)
        else:
            self.path.unlink(missing_ok=True)

    @asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Keeps others from refreshing the same session. Raises: OSError."""
        descriptor = await asyncio.to_thread(self._lock)
        try:
            yield
        finally:
            os.close(descriptor)

    def _lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path.with_suffix(".lock"), flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def _entries(self) -> Mapping[str, object]:
        try:
            entries = json.loads(self.path.read_text())
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            return {}
        except ValueError:
            raise self._damaged() from None
        if not isinstance(entries, dict):
            raise self._damaged()
        return cast("dict[str, object]", entries)

    def _replace(self, entries: Mapping[str, object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{FILE_NAME}.{os.getpid()}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(entries, file)
        partial.replace(self.path)

    def _damaged(self) -> IllegalState:
        return IllegalState(f"{self.path} is damaged; remove it, then run `mlxmesh login`")

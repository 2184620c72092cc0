"""The tokenizers in use: files from the model service, kept on disk and the last few in memory."""

import asyncio
import logging
import re
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_shared.errors import IllegalState, Internal
from mlxmesh_shared.host.json_file import max_file_bytes

_log = logging.getLogger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class TokenizerSource(Protocol):
    """Where tokenizer files come from."""

    def tokenizer_files(
        self, name: str, version: int, profile: str
    ) -> AsyncGenerator[tuple[str, bytes]]:
        """Pieces of files, each with its file's name; files one after another, each in order."""
        ...


class Tokenizers:
    """Tokenizers by the digest of their model and by their profile, each fetched and read once."""

    def __init__(
        self,
        *,
        source: TokenizerSource,
        directory: Path,
        max_loaded: int = 16,
        load: Callable[[Path], ModelTokenizer] = ModelTokenizer.load,
    ) -> None:
        """`directory` is the cache on disk; created when needed, never cleaned."""
        self._source = source
        self._directory = directory
        self._max_loaded = max_loaded
        self._load = load
        self._loaded: OrderedDict[str, ModelTokenizer] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, version: ModelVersion) -> ModelTokenizer:
        """Raises: ServiceUnavailable when it must be fetched and the model service is away,
        IllegalState when the version's files are not there yet.
        """
        if not version.digest:
            raise IllegalState(f"model {version} is not complete yet; wait for its pull to end")
        key = _key(version)
        if key not in self._loaded:
            async with self._locks.setdefault(key, asyncio.Lock()):
                if key not in self._loaded:
                    self._keep(key, await self._open(version))
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def _keep(self, key: str, tokenizer: ModelTokenizer) -> None:
        self._loaded[key] = tokenizer
        while len(self._loaded) > self._max_loaded:
            self._loaded.popitem(last=False)

    async def _open(self, version: ModelVersion) -> ModelTokenizer:
        directory = self._directory / _key(version)
        if not await asyncio.to_thread(directory.is_dir):
            await self._fetch(version, directory)
        try:
            return await asyncio.to_thread(self._load, directory)
        except Exception as error:
            _log.exception("the tokenizer of %s cannot be read", version)
            # Fetched again by the next request, in case it was this copy that was damaged.
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            raise IllegalState(
                f"the tokenizer of model {version} cannot be read; see the log of generation"
            ) from error

    async def _fetch(self, version: ModelVersion, directory: Path) -> None:
        files: dict[str, bytearray] = {}
        fetched = self._source.tokenizer_files(version.name, version.version, version.profile)
        async with aclosing(fetched) as pieces:
            async for name, data in pieces:
                content = files.setdefault(_checked(_FILE_NAME, name), bytearray())
                content.extend(data)
                if len(content) > max_file_bytes(name):
                    raise IllegalState(f"{name} of model {version} is too large to be read")
        await asyncio.to_thread(_store, files, directory)


def _key(version: ModelVersion) -> str:
    """Equal for versions with the same files, and usable as the name of a directory."""
    digest = _checked(_DIGEST, version.digest)
    if not version.profile:
        return digest
    # A revision of a profile never changes, so its name stands for its chat template.
    return sha256(f"{digest} {version.profile}".encode()).hexdigest()


def _store(files: dict[str, bytearray], directory: Path) -> None:
    """Writes them aside and renames, so that a directory with a key's name is always whole."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetching-") as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        for name, content in files.items():
            (whole / name).write_bytes(content)
        # Another instance on this host may have been quicker; its files are the same.
        if not directory.is_dir():
            whole.rename(directory)


def _checked(pattern: re.Pattern[str], name: str) -> str:
    if pattern.fullmatch(name) is None:
        raise Internal("the model service sent a name that is not one of a tokenizer file")
    return name

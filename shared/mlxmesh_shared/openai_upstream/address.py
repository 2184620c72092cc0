"""Where an upstream is, and where its key is. Pure, but for reading the key."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mlxmesh_shared.errors import IllegalState, InvalidArgument

MAX_KEY_BYTES = 16 * 1024

_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]{0,127}|file:/[^\0\r\n]{1,4000}")
_KEY = re.compile(r"[\x21-\x7e]+")


def checked_url(text: str, *, field: str = "base_url") -> str:
    """An upstream's base URL, such as http://host:8000/v1, without a slash at its end.

    Raises: InvalidArgument, which does not quote it: it may contain a secret.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InvalidArgument(f"{field}: it is not a URL", field=field) from None
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidArgument(
            f"{field}: it must begin with http:// or https:// and name a host, such as"
            " https://host/v1",
            field=field,
        )
    if "@" in parts.netloc:
        raise InvalidArgument(
            f"{field}: it must contain no credentials; name the key by env:NAME or file:/PATH",
            field=field,
        )
    if "?" in text or "#" in text or not text.isprintable() or " " in text:
        raise InvalidArgument(
            f"{field}: it must have no query, no fragment and no spaces", field=field
        )
    return text.rstrip("/")


@dataclass(frozen=True)
class KeyReference:
    """Names where a key is: env:NAME or file:/PATH; empty for no key. The key itself is read for
    each use, so that a new one counts at once, and is stored nowhere.
    """

    text: str = ""

    @classmethod
    def parse(cls, text: str, *, field: str = "key") -> KeyReference:
        """Raises: InvalidArgument, which does not quote it: it may be the key itself."""
        if text and not _REFERENCE.fullmatch(text):
            raise InvalidArgument(
                f"{field}: it must be env:NAME or file:/PATH, which name where the key is",
                field=field,
            )
        return cls(text)

    async def read(self) -> str:
        """The key; empty for none.

        Raises: IllegalState when it is not there; its message names the place and not the key.
        """
        if not self.text:
            return ""
        kind, _, place = self.text.partition(":")
        if kind == "env":
            found: str | None = os.environ.get(place)
            what = f"the environment variable {place}"
        else:
            found = await asyncio.to_thread(_read_file, Path(place))
            what = f"the file {place}"
        if found is None:
            raise IllegalState(f"the upstream's key is not there: {what} cannot be read here")
        key = found.strip()
        if not _KEY.fullmatch(key):
            raise IllegalState(f"the upstream's key is not usable: {what} is empty or no text")
        return key


NO_KEY = KeyReference()


def _read_file(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES).decode("ascii", errors="replace")
    except OSError:
        return None

"""The LoRA adapter of a request. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Adapter:
    """An adapter as its name stood for it at one moment; its files never change."""

    name: str
    digest: str
    """The SHA-256 digest of its files, in hexadecimal."""
    directory: str
    """On the hosts of engines."""

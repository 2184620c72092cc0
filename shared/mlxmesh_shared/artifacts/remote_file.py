"""A file as a hub, or another host, announces it. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Its checksum is a SHA-256 or, for small files of a hub, a git object id."""

    name: str
    size_bytes: int
    sha256: str
    git_oid: str

    @property
    def key(self) -> str:
        """The name of its content, for paths and locks."""
        return self.sha256 or f"git-{self.git_oid}"

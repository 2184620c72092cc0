"""What to fetch. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wanted:
    """The files of a version of a model, or of an adapter, which has no model here."""

    digest: str
    model: str = ""
    version: int = 0

    @property
    def is_version(self) -> bool:
        """Whether it is a version; the digest of an adapter does not follow from its files'."""
        return bool(self.model)

    @property
    def label(self) -> str:
        """What events about it are correlated with."""
        return f"{self.model}@{self.version}" if self.model else self.digest

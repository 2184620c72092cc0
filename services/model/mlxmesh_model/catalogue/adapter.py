"""A LoRA adapter of a model. Pure."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter whose files are in the store, as its model's requests name it."""

    model: str
    name: str
    digest: str
    """The SHA-256 digest of its files, in hexadecimal."""
    directory: str
    format: str
    """mlx_lm or peft."""
    rank: int
    """The largest rank of its matrices."""
    weights_bytes: int
    modules: tuple[str, ...]
    """The modules that it changes, without layers' numbers, for example self_attn.q_proj."""
    created_at: datetime

    @property
    def label(self) -> str:
        """The adapter as requests name it: model:adapter."""
        return f"{self.model}:{self.name}"

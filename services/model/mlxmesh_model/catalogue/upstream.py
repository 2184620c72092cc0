"""An OpenAI-compatible server that answers for a version of a model. Pure."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

DEFAULT_MAX_CONCURRENT = 32


class Capability(StrEnum):
    """What an upstream takes; the values are stored."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    TOOLS = "tools"
    JSON_SCHEMA = "json_schema"
    LOGPROBS = "logprobs"
    EXTENDED_SAMPLING = "extended_sampling"
    MAX_COMPLETION_TOKENS = "max_completion_tokens"
    REASONING_EFFORT = "reasoning_effort"


DEFAULT_CAPABILITIES = (Capability.CHAT, Capability.TOOLS, Capability.JSON_SCHEMA)


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where it is, where its key is, and what it takes. It never has the key itself."""

    base_url: str
    model_id: str
    key: str = ""
    """env:NAME or file:/PATH; empty for none."""
    capabilities: tuple[Capability, ...] = DEFAULT_CAPABILITIES
    context_tokens: int = 0
    """0 if it is not known."""
    max_concurrent: int = DEFAULT_MAX_CONCURRENT

    def __str__(self) -> str:
        return f"{self.base_url} {self.model_id}"

    @property
    def stored(self) -> dict[str, Any]:
        """Its stored form."""
        return asdict(self)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> "Upstream":
        """One from its stored form."""
        names = stored.pop("capabilities")
        return cls(**stored, capabilities=tuple(Capability(name) for name in names))

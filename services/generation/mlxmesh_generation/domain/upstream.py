"""An OpenAI-compatible server that answers for a version of a model. Pure."""

from dataclasses import dataclass
from enum import Enum


class Capability(Enum):
    """What an upstream takes."""

    CHAT = "chat"
    COMPLETION = "completion"
    TOOLS = "tools"
    JSON_SCHEMA = "json_schema"
    LOGPROBS = "logprobs"
    EXTENDED_SAMPLING = "extended_sampling"
    MAX_COMPLETION_TOKENS = "max_completion_tokens"
    REASONING_EFFORT = "reasoning_effort"
    EMBEDDING = "embedding"


@dataclass(frozen=True)
class Upstream:
    """Where it is, where its key is, and what it takes."""

    base_url: str
    model_id: str
    key: str = ""
    """env:NAME or file:/PATH; empty for none."""
    capabilities: frozenset[Capability] = frozenset({Capability.CHAT})
    max_concurrent: int = 32


@dataclass(frozen=True)
class Sampling:
    """The sampling options of a request; None where it leaves the default."""

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None

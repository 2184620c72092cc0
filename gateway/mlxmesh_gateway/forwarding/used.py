"""What one generation used, as far as this gateway has seen it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Used:
    """Filled in by what is parsed in any case: the first messages of a stream and its last one."""

    request_id: str = ""
    created_ns: int = 0
    """When the generation began, which tells it from others with its request_id; 0 if unknown."""
    first_sequence: int = 0
    last_sequence: int = 0
    """The numbers of the first and last message that were read; 0 for none."""
    model: str = ""
    """The model that answered; empty before that is known."""
    model_version: int = 0
    adapter: str = ""
    arm: str = ""
    engine_id: str = ""
    generation_id: str = ""
    """The instance that answers; of a resumed stream, the last one."""
    first_output_ns: int = 0
    """When the first output came, by the monotonic clock; 0 before."""
    finish_reason: int = 0
    """As in the contract; 0 until the generation has ended."""
    resumptions: int = 0
    """How often the stream was resumed after a loss."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    """Known at the end, or when the stream fails."""
    device_ms: float = 0.0
    """Prefill and decode; 0 for a stream that did not finish."""
    snapshot_tokens: int = 0
    """All tokens of the generation so far, where a call has read them at once."""
    total_tokens: int = 0
    """All tokens of a generation that has ended; 0 if unknown."""
    repeated: bool = False
    """Whether another call counted this generation before."""
    messages: int = 0
    """Messages with output so far, each of one token or more."""
    failed: bool = False
    """Whether it ended with an error that its client did not cause by leaving."""
    on_started: Callable[[], None] = lambda: None
    """Called once the model and the prompt's tokens are known."""

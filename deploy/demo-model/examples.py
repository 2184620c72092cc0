"""What one training or evaluation example is, and which prompts are held out."""

import zlib
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
HELD_OUT_SHARE = 10  # One key in this many is never trained on.


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation that ends with the assistant's answer, or raw text without messages.

    ``key`` decides the split: two examples with the same key ask for the same thing.
    """

    task: str
    key: str
    messages: tuple[Message, ...] = ()
    tools: tuple[Message, ...] = field(default=())
    text: str = ""

    @property
    def prompt(self) -> list[Message]:
        """The messages before the answer."""
        return list(self.messages[:-1])

    @property
    def held_out(self) -> bool:
        """Whether the example belongs to the evaluation and never to the training data."""
        return is_held_out(self.key)


def is_held_out(key: str) -> bool:
    """Split on a checksum of the key, so that no seed or order can move a key across."""
    return zlib.crc32(key.encode()) % HELD_OUT_SHARE == 0


def user(text: str) -> Message:
    """Return a user message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """Return an assistant message."""
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    """Return a system message."""
    return {"role": "system", "content": text}

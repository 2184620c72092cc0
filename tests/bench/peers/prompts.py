"""Prompts as text, of an exact number of tokens: the peers are asked in text."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

CountTokens = Callable[[str], int]


def text_prompt(count: CountTokens, tokens: int, *, seed: int) -> str:
    """Random words that count as so many tokens, ending in words of one letter.

    Raises ValueError where the tokenizer cannot be met exactly.
    """
    generator = random.Random(seed)
    text = ""
    while count(longer := f"{text} {_word(generator)}".strip()) < tokens:
        text = longer
    for _ in range(tokens - count(text)):
        text += f" {generator.choice(string.ascii_lowercase)}"
    if count(text) != tokens:
        raise ValueError(f"no text of {tokens} tokens: a letter must be one token")
    return text


def _word(generator: random.Random) -> str:
    return "".join(generator.choices(string.ascii_lowercase, k=generator.randint(2, 9)))

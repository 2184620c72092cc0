"""The samplers of a load: all greedy, or as many different ones as there are clients."""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]
"""Sampling settings by name, as the contracts and the engine both call them."""


def greedy(number: int) -> Settings:
    """Nothing set."""
    return {}


def mixed(number: int) -> Settings:
    """Different settings for each number, as many clients would send them."""
    kinds: list[Settings] = [
        {},
        {"temperature": 0.7 + number / 100},
        {"temperature": 1, "top_p": 0.8 + number / 200},
        {"temperature": 0.9, "top_k": 10 + number},
        {"temperature": 1, "min_p": 0.02 + number / 1000},
        {"temperature": 0.8, "repetition_penalty": 1.05 + number / 1000},
        {"temperature": 1, "presence_penalty": number / 40, "frequency_penalty": 0.1},
        {"temperature": 1, "top_p": 0.95, "top_k": 50, "min_p": number / 2000},
    ]
    return kinds[number % len(kinds)] | {"seed": number}

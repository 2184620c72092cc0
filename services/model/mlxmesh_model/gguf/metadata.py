"""The metadata of a GGUF file, with values checked for type and range; the conversion's errors."""

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np


class BadFile(Exception):
    """The file is damaged or malicious; the message names the key or the tensor."""


class NotSupported(Exception):
    """mlx-lm or this conversion does not support the file; the message names the key or tensor."""


class Metadata:
    """Methods raise BadFile, naming the key, for a missing value, a wrong type or a bad range."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def integer(self, key: str, low: int, high: int, *, default: int | None = None) -> int:
        """An integer; an array of equal integers counts as one."""
        value = self.values.get(key, default)
        if isinstance(value, np.ndarray):
            array = cast("np.ndarray[Any, Any]", value)
            same = array.size and (array == array[0]).all()
            value = array[0].item() if same else None
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise BadFile(f"{key} is not an integer between {low} and {high}, or is missing")

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """An integer, or None if the key is missing."""
        return self.integer(key, low, high) if key in self else None

    def number(self, key: str, low: float, high: float, *, default: float | None = None) -> float:
        """A finite number, as the shortest decimal that is the same float32."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadFile(f"{key} is no number, or missing")
        if not math.isfinite(value) or not low <= value <= high:
            raise BadFile(f"{key} is not between {low:g} and {high:g}")
        return float(str(np.float32(value)))

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key, default)
        if isinstance(value, bool):
            return value
        raise BadFile(f"{key} is neither true nor false")

    def text(self, key: str, *, default: str | None = None) -> str:
        """A text."""
        value = self.values.get(key, default)
        if isinstance(value, str):
            return value
        raise BadFile(f"{key} is not a string, or is missing")

    def texts(self, key: str) -> list[str]:
        """A non-empty array of strings."""
        value = self.values.get(key)
        if isinstance(value, list) and value:
            return cast("list[str]", value)
        raise BadFile(f"{key} is not an array of strings, or is missing")

    def numbers(self, key: str, count: int) -> list[float]:
        """An array of `count` finite numbers."""
        value = self.values.get(key)
        if isinstance(value, np.ndarray):
            array = cast("np.ndarray[Any, Any]", value)
            if array.size == count and array.dtype != bool and np.isfinite(array).all():
                return array.tolist()
        raise BadFile(f"{key} is not an array of {count} finite numbers, or is missing")

"""The metadata of a GGUF file, each value asked for by its type and range."""

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from mlxmesh_model.gguf.problems import BadFile


class Metadata:
    """Raises BadFile with the key where a value is missing, of another type, or out of range."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def integer(self, key: str, low: int, high: int, *, default: int | None = None) -> int:
        """A whole number; an array of equal ones counts as one."""
        value = self.values.get(key, default)
        if isinstance(value, np.ndarray):
            array = cast("np.ndarray[Any, Any]", value)
            same = array.size and (array == array[0]).all()
            value = array[0].item() if same else None
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise BadFile(f"{key} is no whole number between {low} and {high}, or missing")

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """None where there is no such key."""
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
        raise BadFile(f"{key} is no text, or missing")

    def texts(self, key: str) -> list[str]:
        """An array of texts, not empty."""
        value = self.values.get(key)
        if isinstance(value, list) and value:
            return cast("list[str]", value)
        raise BadFile(f"{key} is no array of texts, or missing")

    def numbers(self, key: str, count: int) -> list[float]:
        """An array of so many finite numbers."""
        value = self.values.get(key)
        if isinstance(value, np.ndarray):
            array = cast("np.ndarray[Any, Any]", value)
            if array.size == count and array.dtype != bool and np.isfinite(array).all():
                return array.tolist()
        raise BadFile(f"{key} is no array of {count} finite numbers, or missing")

"""Limits and errors of chat templates; each message continues "the model's chat template"."""

import re
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any, cast


class TemplateUnusable(Exception):
    """It does not compile, fails, or exceeds its limits."""


class TemplateRefused(Exception):
    """It rejects the conversation; its message is empty when it may quote the conversation."""


MAX_RENDER_S = 5.0
"""How long one rendering may take."""
MAX_ITEMS = 10_000
"""Characters or items that a repetition may make; also the widest padding."""
MAX_BITS = 4_096
"""Of a whole number."""
SIZED_FILTERS = ("batch", "center", "format", "indent", "round", "slice", "tojson")
"""jinja2's filters with a number that their time or memory grows with."""

# A width or precision that is long, or that comes from elsewhere.
_WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(\d{5}|\*)|%\([^)]*\)[^a-zA-Z%]*(\d{5}|\*)")
_WIDE_BRACES = re.compile(r":[^{}]*(\d{5}|\{)")


def check_operands(operator: str, left: Any, right: Any) -> None:
    """For `*`, `**` and `%`. Raises: TemplateUnusable."""
    if operator == "%":
        check_percent(left)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        _check(bits * right if operator == "**" else bits + right.bit_length(), MAX_BITS)
    elif operator == "*":
        for items, times in ((left, right), (right, left)):
            if isinstance(items, Collection) and isinstance(times, int):
                _check(len(cast("Collection[Any]", items)) * times, MAX_ITEMS)


def check_percent(template: Any) -> None:
    """For `template % values`. Raises: TemplateUnusable."""
    if isinstance(template, str) and _WIDE_PERCENT.search(template):
        raise _too_much()


def check_braces(template: Any) -> None:
    """For `template.format(values)`. Raises: TemplateUnusable."""
    if isinstance(template, str) and _WIDE_BRACES.search(template):
        raise _too_much()


def check_arguments(args: Collection[Any], kwargs: Mapping[str, Any]) -> None:
    """For functions that pad or repeat by a number. Raises: TemplateUnusable."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, int):
            _check(abs(value), MAX_ITEMS)


def limited(name: str, apply: Callable[..., Any]) -> Callable[..., Any]:
    """One of SIZED_FILTERS, with its arguments checked. Raises: TemplateUnusable."""

    @wraps(apply)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if name == "format":
            check_percent(args[0])
        # The first is the value itself, which may be any number.
        check_arguments(args[1:], kwargs)
        return apply(*args, **kwargs)

    return checked


def _check(asked: int, most: int) -> None:
    if asked > most:
        raise _too_much()


def _too_much() -> TemplateUnusable:
    return TemplateUnusable("repeats, pads or computes too much")

"""A model's own chat template, compiled, in a sandbox with limits on time and size.

It runs in a process of its own (docs/decisions/0026), which is why nothing here may import gRPC.

The environment is the one that chat templates are written for.
Source: transformers 5.23, utils/chat_template_utils.py.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlxmesh_generation.text import template_limits
from mlxmesh_generation.text.special_text import MARK
from mlxmesh_generation.text.template_limits import (
    MAX_RENDER_S,
    TemplateRefused,
    TemplateUnusable,
)

MAX_RENDERED_CHARACTERS = 16_000_000
MAX_TEMPLATE_CHARACTERS = 2**20
_ESCAPED_MARK = re.compile(r"(?<!\\)((?:\\\\)*)" + re.escape(json.dumps(MARK)[1:-1]))
_DEFAULT_GLOBALS = ("range", "dict", "namespace")


class CompiledTemplate:
    """Turns conversations into prompt text."""

    def __init__(
        self,
        source: str,
        *,
        variables: Mapping[str, str],
        max_render_s: float = MAX_RENDER_S,
        max_characters: int = MAX_RENDERED_CHARACTERS,
    ) -> None:
        """`variables` are the names of special tokens that templates use, such as bos_token."""
        self._source = source
        self._variables = variables
        self._max_render_s = max_render_s
        self._max_characters = max_characters

    @cached_property
    def _template(self) -> Template:
        # Compiled on first use: a model with a broken template can still complete prompts.
        return _compile(self._source)

    def render(self, conversation: Mapping[str, Any]) -> str:
        """The prompt text. `conversation` holds messages, add_generation_prompt and the like.

        Raises: TemplateRefused, TemplateUnusable.
        """
        budget = _Budget(self._max_render_s)
        context = {**_NOTHING, **self._variables, **conversation, _BUDGET: budget}
        pieces: list[str] = []
        characters = 0
        try:
            for piece in self._template.generate(**context):
                characters += len(piece)
                if characters > self._max_characters:
                    raise TemplateUnusable(f"makes more than {self._max_characters} characters")
                pieces.append(piece)
        except _Refused as error:
            # Words that are not in the template may quote the conversation.
            message = str(error)
            raise TemplateRefused(message if message in self._source else "") from error
        except (TemplateUnusable, MemoryError):
            raise
        except Exception as error:  # a template is foreign code: it may raise anything
            raise TemplateUnusable(f"failed ({type(error).__name__})") from error
        return "".join(pieces)


_NOTHING: Mapping[str, Any] = {"tools": None, "documents": None}
_BUDGET = "mlxmesh_budget"


class _Refused(TemplateError):
    """The template called raise_exception."""


class _Budget:
    """Ends one rendering once its time is over."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._end_s = time.monotonic() + limit_s

    def watch(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.check()
            yield item

    def check(self) -> None:
        if time.monotonic() > self._end_s:
            raise TemplateUnusable(f"took longer than {self._limit_s:g} s")


class _Environment(ImmutableSandboxedEnvironment):
    """Checks the budget with every call, so that macros cannot recurse past it.

    One operation cannot be stopped half-way, so what it is given is limited.
    """

    intercepted_binops = frozenset(("*", "**", "%"))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        context[_BUDGET].check()
        if isinstance(getattr(obj, "__self__", None), str):
            template_limits.check_arguments(args, kwargs)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        template_limits.check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            template_limits.check_braces(value.__self__)
        return wrapped


class _GenerationBlocks(Extension):
    """`{% generation %}` marks the assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(source: str) -> Template:
    if len(source) > MAX_TEMPLATE_CHARACTERS:
        raise TemplateUnusable(f"has more than {MAX_TEMPLATE_CHARACTERS} characters")
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols]
    )
    defaults = cast("dict[str, Any]", environment.globals)  # pyright: ignore[reportUnknownMemberType]
    environment.globals = {name: defaults[name] for name in _DEFAULT_GLOBALS} | _OWN_GLOBALS
    filters = cast("dict[str, Any]", environment.filters)  # pyright: ignore[reportUnknownMemberType]
    filters["tojson"] = _to_json
    for name in template_limits.SIZED_FILTERS:
        filters[name] = template_limits.limited(name, filters[name])
    tree = environment.parse(source)
    # The environment sees every call; a loop that calls nothing has to be watched from inside.
    for loop in tree.find_all(nodes.For):
        watch = nodes.Getattr(nodes.Name(_BUDGET, "load"), "watch", "load")
        loop.iter = nodes.Call(watch, [loop.iter], [], None, None)
        nodes.Node.set_lineno(loop.iter, loop.lineno)
        nodes.Node.set_environment(loop.iter, environment)
    return environment.from_string(tree)


def _raise_exception(message: str) -> NoReturn:
    raise _Refused(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Unlike jinja2's filter, this one does not escape for HTML.
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    # A mark must stay one. A backslash of the caller's is written as two.
    return _ESCAPED_MARK.sub(rf"\1{MARK}", text) if ensure_ascii else text


_OWN_GLOBALS = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

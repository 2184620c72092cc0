"""Checks the syntax of chat templates, before a model answers with one. Pure."""

import re
from collections.abc import Iterator
from typing import Any, cast

from jinja2 import TemplateSyntaxError, filters, nodes, tests
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlxmesh_shared.errors import InvalidArgument

_QUOTED_NAME = re.compile(r"'([^\W\d]\w*)'")
# The generation service renders with these.
_FILTERS = cast("dict[str, Any]", filters.FILTERS)  # pyright: ignore[reportUnknownMemberType]
_TESTS = cast("dict[str, Any]", tests.TESTS)  # pyright: ignore[reportUnknownMemberType]
_KNOWN = {"filter": frozenset(_FILTERS), "test": frozenset(_TESTS)}
# Filters that are given the name of another filter or a test, and in which argument.
_NAMED_BY_ARGUMENT = {
    "map": ("filter", 0),
    "select": ("test", 0),
    "reject": ("test", 0),
    "selectattr": ("test", 1),
    "rejectattr": ("test", 1),
}
_JINJA_NAMES = frozenset(
    "and autoescape block break call continue do elif else endautoescape endblock endcall endfilter"
    " endfor endgeneration endif endmacro endset endwith extends filter for from generation if"
    " import in include integer is macro name not or recursive set string with".split()
)


class _Generation(Extension):
    """The tag that marks what an assistant said, for training; it renders its body."""

    tags = {"generation"}  # noqa: RUF012  a class attribute of Jinja's

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def check_template(source: str) -> None:
    """Raises: InvalidArgument, with the line, if the source is not a template that can be read."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    try:
        problem = _unknown_names(environment.parse(source))
    except TemplateSyntaxError as error:
        problem = f"line {error.lineno}: {_without_names(error.message or '')}"
    except RecursionError:
        problem = "it is nested too deeply"
    if problem:
        raise InvalidArgument(
            f"chat_template is not valid Jinja: {problem}", field="settings.chat_template"
        )


def _unknown_names(tree: nodes.Template) -> str:
    """The problem with the first unknown filter or test; empty if there is none.

    Not by compiling the template: that computes its constants, of any size.
    """
    # A template may ask first, as in {% if "x" is filter %}.
    asked = {
        (test.name, test.node.value)
        for test in tree.find_all(nodes.Test)
        if isinstance(test.node, nodes.Const)
    }
    for kind, name, line in _used_names(tree):
        known = _KNOWN[kind]
        if name not in known and (kind, name) not in asked:
            return f"line {line}: unknown {kind}; use one of {', '.join(sorted(known))}"
    return ""


def _used_names(tree: nodes.Template) -> Iterator[tuple[str, Any, int]]:
    """Each filter and test with its kind and its line, also those that filters are given."""
    for node in tree.find_all(nodes.Filter):
        yield "filter", node.name, node.lineno
        kind, position = _NAMED_BY_ARGUMENT.get(node.name, ("", 0))
        if kind and len(node.args) > position:
            argument = node.args[position]
            if isinstance(argument, nodes.Const):
                yield kind, argument.value, node.lineno
    for node in tree.find_all(nodes.Test):
        yield "test", node.name, node.lineno


def _without_names(message: str) -> str:
    """Jinja's message without names of the template, since messages are logged."""
    return _QUOTED_NAME.sub(
        lambda found: found[0] if found[1] in _JINJA_NAMES else "'...'", message
    )

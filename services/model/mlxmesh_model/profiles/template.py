"""Checks the syntax of chat templates, before a model answers with one. Pure."""

import re

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlxmesh_shared.errors import InvalidArgument

_QUOTED_NAME = re.compile(r"'([^\W\d]\w*)'")
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
        environment.parse(source)
    except TemplateSyntaxError as error:
        problem = f"line {error.lineno}: {_without_names(error.message or '')}"
    except RecursionError:
        problem = "it is nested too deeply"
    else:
        return
    raise InvalidArgument(
        f"chat_template is not valid Jinja: {problem}", field="settings.chat_template"
    )


def _without_names(message: str) -> str:
    """Jinja's message without names of the template, since messages are logged."""
    return _QUOTED_NAME.sub(
        lambda found: found[0] if found[1] in _JINJA_NAMES else "'...'", message
    )

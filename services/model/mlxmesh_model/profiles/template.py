"""Checks the syntax of chat templates, before a model answers with one. Pure."""

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlxmesh_shared.errors import InvalidArgument


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
        problem = f"line {error.lineno}: {error.message}"
    except RecursionError:
        problem = "it is nested too deeply"
    else:
        return
    raise InvalidArgument(
        f"chat_template is not valid Jinja: {problem}", field="settings.chat_template"
    )

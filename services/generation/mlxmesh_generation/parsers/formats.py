"""The interface of a format. Pure."""

from collections.abc import Callable, Sequence
from typing import Protocol

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.parts import OutputParser

TokenId = Callable[[str], int | None]
"""The id of the added token with a text; None if no added token has it.

Added tokens that are not special count too: to llguidance, one such as `<tool_call>` is no text.
"""


class ToolFormat(Protocol):
    """How a family of models writes tool calls."""

    @property
    def name(self) -> str:
        """As in settings: a-z, 0-9, _ and -."""
        ...

    @property
    def markers(self) -> frozenset[str]:
        """Texts that may be special tokens and that the parser must see."""
        ...

    def parser(self, tools: Sequence[Tool], /) -> OutputParser:
        """A parser of text without reasoning. The schemas of `tools` decide the types of arguments
        in formats that do not show them.
        """
        ...

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        """A Lark grammar of outputs whose calls satisfy the schemas of `tools`.

        required: the output is calls only, at least one; else text and calls, and the arguments of
        a tool are free unless it is strict. Raises: FeatureNotSupported if the format has none.
        """
        ...


class ReasoningFormat(Protocol):
    """How a family of models marks reasoning."""

    @property
    def name(self) -> str:
        """As in settings: a-z, 0-9, _ and -."""
        ...

    @property
    def markers(self) -> frozenset[str]:
        """Texts that may be special tokens and that the parser must see."""
        ...

    @property
    def end(self) -> str:
        """The text after which the answer begins."""
        ...

    def is_open(self, prompt: str) -> bool:
        """Whether a rendered prompt ends inside reasoning."""
        ...

    def parser(self, answer: OutputParser, /, *, is_open: bool) -> OutputParser:
        """A parser of the whole output; what is not reasoning goes to `answer`."""
        ...

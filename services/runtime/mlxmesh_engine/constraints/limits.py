"""The limits of constraints: of the text, of its compilation, and of each mask."""

from dataclasses import dataclass

from llguidance import LLParserLimits


@dataclass(frozen=True, slots=True)
class ConstraintLimits:
    """What an engine accepts; the defaults are those of its settings."""

    max_characters: int = 262_144
    max_depth: int = 64
    """Of a JSON schema."""
    compile_timeout_s: float = 5.0
    cache_bytes: int = 268_435_456


def parser_limits() -> LLParserLimits:
    """The work that one step of one sequence may cause: a few milliseconds, as others wait for it.

    Below llguidance's own limits: half of the lexer's work, a fifth of the parser's and of the lexer's
    states, which have 1 to 2 kB each in every sequence.
    """
    return LLParserLimits(
        step_lexer_fuel=100_000,
        step_max_items=10_000,
        max_lexer_states=50_000,
        verbose_errors=False,
    )

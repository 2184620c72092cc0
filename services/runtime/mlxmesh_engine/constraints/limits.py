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
    """The work that one step of one sequence may cause; others of the batch wait for it.

    Half of llguidance's own limit for the lexer, a fifth of those for the parser and for lexer
    states, which have 1 to 2 kB each in every sequence. An ambiguous grammar still takes 70 ms.
    """
    return LLParserLimits(
        step_lexer_fuel=100_000,
        step_max_items=10_000,
        max_lexer_states=50_000,
        verbose_errors=False,
    )

"""Turns grammars into llguidance's form and its refusals into errors. Pure."""

import json
import re
from typing import Any, cast

from llguidance import LLMatcher

from mlxmesh_engine.constraints.limits import ConstraintLimits
from mlxmesh_engine.constraints.schema_path import find_keyword, nesting
from mlxmesh_engine.constraints.white_space import WHITE_SPACE, bound_white_space
from mlxmesh_engine.scheduling.request import Grammar, GrammarKind
from mlxmesh_shared.errors import ConstraintInvalid, ConstraintTooComplex, MeshError

_MAX_MESSAGE_CHARACTERS = 300
# A schema must not be able to make llguidance ignore a part of it.
_JSON_OVERRIDES: dict[str, Any] = {"lenient": False, "coerce_one_of": False}
# Llguidance forces literals as the tokens that the tokenizer encodes them to. It would force the
# special token for a text like "<think>", which it then refuses, and the end token would end the
# output in the middle. The last of these lines counts, so a grammar cannot change it.
_OPTIONS = '%llguidance {"no_forcing": true}'
_TOO_COMPLEX = re.compile(r"too (big|large|many|deeply|complex)|limit|max is|panic", re.IGNORECASE)
_NAMES = {
    GrammarKind.JSON_SCHEMA: "the JSON schema",
    GrammarKind.REGEX: "the regular expression",
    GrammarKind.LARK: "the grammar",
    GrammarKind.CHOICES: "the list of texts",
}
# Places are those in the caller's text only if that is Lark.
_LARK_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")
_REGEX_ERROR = re.compile(r"regex parse error:$.*?^error: (.+?)$", re.MULTILINE | re.DOTALL)
_UNIMPLEMENTED = re.compile(r'Unimplemented keys: \["([^"]+)"')
_UNKNOWN_VALUE = re.compile(r"(Unknown format|Invalid type): (.+)")
_VALUE_KEYS = {"Unknown format": "format", "Invalid type": "type"}


def field_of(grammar: Grammar) -> str:
    """The field of a Submit that holds the grammar."""
    return f"constraint.{grammar.kind.value}"


def check_text(grammar: Grammar, limits: ConstraintLimits) -> None:
    """Raises: ConstraintInvalid, ConstraintTooComplex; before anything is compiled."""
    if len(grammar.text) > limits.max_characters:
        raise too_complex(
            grammar,
            f"has {len(grammar.text)} characters; at most {limits.max_characters} are allowed",
        )
    if grammar.kind is not GrammarKind.JSON_SCHEMA:
        return
    depth = nesting(_parsed(grammar))
    if depth > limits.max_depth:
        raise too_complex(
            grammar, f"is nested {depth} levels deep; at most {limits.max_depth} are allowed"
        )


def for_llguidance(grammar: Grammar) -> str:
    """The grammar in llguidance's dialect of Lark. Raises: ConstraintInvalid."""
    return f"{_lark(grammar)}\n{_OPTIONS}"


def _lark(grammar: Grammar) -> str:
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            return f"start: %json {json.dumps(_schema(grammar))}"
        case GrammarKind.REGEX:
            return _first_grammar(LLMatcher.grammar_from_regex(grammar.text))["lark_grammar"]
        case GrammarKind.LARK:
            return bound_white_space(grammar.text)
        case GrammarKind.CHOICES:
            # Lark's strings have JSON's escapes. A terminal is one expression for the lexer.
            texts = [json.dumps(text, ensure_ascii=False) for text in json.loads(grammar.text)]
            return "start: TEXT\nTEXT: " + " | ".join(texts)


def _schema(grammar: Grammar) -> Any:
    """The schema with the options of its compilation. Raises: ConstraintInvalid."""
    schema = _parsed(grammar)
    if schema is False:
        raise invalid(grammar, "the schema false allows nothing")
    try:
        compiled = LLMatcher.grammar_from_json_schema(
            "{}" if schema is True else grammar.text,
            cast("Any", {"whitespace_pattern": WHITE_SPACE}),
            cast("Any", _JSON_OVERRIDES),
        )
    except ValueError as error:
        raise invalid(grammar, first_line(str(error))) from error
    return _first_grammar(compiled)["json_schema"]


def _first_grammar(compiled: str) -> dict[str, Any]:
    return json.loads(compiled)["grammars"][0]


def refusal(grammar: Grammar, message: str) -> MeshError:
    """The error for a grammar that llguidance refuses with this message."""
    said = first_line(message)
    if grammar.kind is not GrammarKind.LARK:
        said = _LARK_PLACE.sub("", said)
    if found := _REGEX_ERROR.search(message):
        # Without the regex, which the caller has and no log may have.
        is_regex = grammar.kind is GrammarKind.REGEX
        said = first_line(found[1] if is_regex else f"{said} {found[1]}")
    if _TOO_COMPLEX.search(said):
        return too_complex(grammar, f"is too complex: {said}")
    if grammar.kind is GrammarKind.JSON_SCHEMA and (path := _path(grammar, said)):
        said = f"{said} (at {path})"
    return invalid(grammar, said)


def invalid(grammar: Grammar, said: str) -> ConstraintInvalid:
    return ConstraintInvalid(
        f"{_NAMES[grammar.kind]} cannot be used: {said}", field=field_of(grammar)
    )


def too_complex(grammar: Grammar, what: str) -> ConstraintTooComplex:
    return ConstraintTooComplex(
        f"{_NAMES[grammar.kind]} {what}; simplify it", field=field_of(grammar)
    )


def first_line(message: str) -> str:
    """The first line of one of llguidance's messages, bounded; the others show its state."""
    return message.strip().partition("\n")[0][:_MAX_MESSAGE_CHARACTERS]


def _parsed(grammar: Grammar) -> Any:
    try:
        return json.loads(grammar.text)
    except RecursionError:
        raise too_complex(grammar, "is nested too deeply") from None
    except ValueError as error:
        raise invalid(grammar, f"it is not JSON: {error}") from error


def _path(grammar: Grammar, said: str) -> str:
    """Where in the schema the keyword is that a message names; empty if unknown."""
    schema = _parsed(grammar)
    if found := _UNIMPLEMENTED.search(said):
        return find_keyword(schema, found[1])
    if found := _UNKNOWN_VALUE.search(said):
        return find_keyword(schema, _VALUE_KEYS[found[1]], found[2])
    return ""

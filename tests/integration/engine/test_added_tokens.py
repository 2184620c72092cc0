"""Texts that are also added tokens, in constraints: they are written with ordinary tokens."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from mlxmesh_engine.scheduling.request import FinishReason, GrammarKind
from tests.fakes.constrained_rig import ConstrainedRig, constrained, write_text_model

END, SPECIAL, ORDINARY, PLAIN = "</s>", "<s>", "<tool_call>", "dog!"
HOT: dict[str, Any] = {"temperature": 1.5}


def write_model(path: Path) -> Path:
    write_text_model(path)
    file = str(path / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    tokenizer.add_tokens([AddedToken(text, special=False) for text in (ORDINARY, PLAIN)])
    tokenizer.save(file)
    return path


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConstrainedRig]:
    with closing(ConstrainedRig(write_model(tmp_path_factory.mktemp("added")))) as rig:
        yield rig


def grammars(text: str) -> dict[str, tuple[GrammarKind, str, str]]:
    """By name: a grammar, and its only output."""
    quoted = json.dumps(text)
    return {
        "choice": (GrammarKind.CHOICES, f"[{quoted}]", text),
        "choice inside": (GrammarKind.CHOICES, json.dumps([f"a{text}b"]), f"a{text}b"),
        "regex": (GrammarKind.REGEX, re.escape(text), text),
        "lark": (GrammarKind.LARK, f'start: "a" {quoted}', f"a{text}"),
        "lark that asks for forcing": (
            GrammarKind.LARK,
            f'%llguidance {{"no_forcing": false}}\nstart: "a" {quoted}',
            f"a{text}",
        ),
        "const": (GrammarKind.JSON_SCHEMA, json.dumps({"const": text}), quoted),
        "enum": (GrammarKind.JSON_SCHEMA, json.dumps({"enum": [text]}), quoted),
        "key": (
            GrammarKind.JSON_SCHEMA,
            json.dumps(
                {
                    "type": "object",
                    "properties": {text: {"const": 1}},
                    "required": [text],
                    "additionalProperties": False,
                }
            ),
            f"{{{quoted}:1}}",
        ),
    }


@pytest.mark.parametrize("text", [END, SPECIAL, ORDINARY, PLAIN])
@pytest.mark.parametrize("name", grammars(""))
def test_the_text_of_an_added_token_is_written_whole(
    rig: ConstrainedRig, name: str, text: str
) -> None:
    kind, grammar, expected = grammars(text)[name]
    ran = rig.run(*(constrained(at, kind, grammar, seed=at, **HOT) for at in range(3)))
    for at in range(3):
        assert ran.last(at).finish_reason is FinishReason.STOP
        written = rig.text(ran.tokens(at))
        assert (re.sub(r"\s", "", written) if name == "key" else written) == expected


@pytest.mark.parametrize("text", [SPECIAL, ORDINARY])
def test_a_grammar_may_ask_for_the_token_itself(rig: ConstrainedRig, text: str) -> None:
    token_id = rig.tokenizer.token_to_id(text)
    for symbol in (text, f"<[{token_id}]>"):
        ran = rig.run(constrained(1, GrammarKind.LARK, f'start: "a" {symbol} "b"', **HOT))
        assert token_id in ran.tokens(1)
        assert ran.last(1).finish_reason is FinishReason.STOP


def test_added_tokens_that_look_special_do_not_occur_in_strings(rig: ConstrainedRig) -> None:
    token_id: int = rig.tokenizer.token_to_id(ORDINARY)  # pyright: ignore[reportAssignmentType]
    bias = {token_id: 100.0}
    schema = json.dumps({"type": "string", "minLength": 3, "maxLength": 9})
    ran = rig.run(constrained(1, GrammarKind.JSON_SCHEMA, schema, logit_bias=bias, **HOT))
    assert token_id not in ran.tokens(1)
    assert 3 <= len(json.loads(rig.text(ran.tokens(1)))) <= 9

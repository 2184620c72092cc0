"""Templates run as they would in transformers, and no further than their caps."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.domain.request import Chat, ChatTurn
from mlxmesh_generation.text.chat_template import CompiledTemplate
from mlxmesh_generation.text.conversation import conversation
from mlxmesh_generation.text.template_limits import TemplateRefused, TemplateUnusable
from tests.fakes.tokenizer_files import CHAT_TEMPLATE

HELLO = Chat((ChatTurn("user", "hello"),))


def render(source: str, chat: Chat = HELLO, **limits: float) -> str:
    template = CompiledTemplate(source, variables={"bos_token": "<s>"}, **limits)  # pyright: ignore[reportArgumentType]
    return template.render(conversation(chat))


def test_turns_and_the_opening_of_the_answer() -> None:
    chat = Chat((ChatTurn("system", "Be brief."), ChatTurn("user", "Hi")))
    expected = "<|system|>Be brief.</s><|user|>Hi</s><|assistant|>"
    assert render(CHAT_TEMPLATE, chat) == expected
    closed = Chat(chat.turns, add_generation_prompt=False)
    assert render(CHAT_TEMPLATE, closed) == expected.removesuffix("<|assistant|>")


@given(content=st.text(max_size=50))
def test_what_is_said_goes_in_unchanged(content: str) -> None:
    assert render("{{ messages[0].content }}", Chat((ChatTurn("user", content),))) == content


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0]['role'] }}", "<s>user"),
        ("{{ {'a': 'é<'} | tojson }}", json.dumps({"a": "é<"}, ensure_ascii=False)),
        ("{{ {'a': 1} | tojson(indent=2) }}", json.dumps({"a": 1}, indent=2)),
        ("{% generation %}words{% endgeneration %}", "words"),
        (
            "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
            "13",
        ),
        (
            "{% set n = namespace(v=0) %}{% for i in [2] %}{% set n.v = i %}{% endfor %}{{ n.v }}",
            "2",
        ),
        ("{% for i in [5, 6] %}{{ loop.index }}{{ loop.last }} {% endfor %}", "1False 2True "),
        ("{{ tools is none }}{{ documents is none }}", "TrueTrue"),
        ("{% if true %}\nline\n{% endif %}\n", "line\n"),
    ],
)
def test_what_templates_rely_on(source: str, expected: str) -> None:
    assert render(source) == expected


def test_the_date_is_there() -> None:
    assert len(render("{{ strftime_now('%Y') }}")) == 4


def test_a_refusal_repeats_the_templates_words_but_not_the_callers() -> None:
    with pytest.raises(TemplateRefused, match="tools are not for this model"):
        render(CHAT_TEMPLATE, Chat((ChatTurn("tool", "x"),)))
    with pytest.raises(TemplateRefused) as caught:
        render("{{ raise_exception(messages[0].content) }}", Chat((ChatTurn("user", "canary"),)))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ lipsum.__globals__ }}",
        "{{ missing.attribute }}",
        "{{ 1 / 0 }}",
        "{% for %}",
        "{% include 'file' %}",
    ],
)
def test_a_template_that_fails_is_the_callers_to_avoid(source: str) -> None:
    with pytest.raises(TemplateUnusable):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% set r = range(90000) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% macro m() %}{% for i in range(9) %}{{ m() }}{% endfor %}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) ~ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    ],
)
def test_an_endless_template_is_stopped(source: str) -> None:
    with pytest.raises(TemplateUnusable, match=r"longer than 0\.05 s|RecursionError"):
        render(source, max_render_s=0.05)


@pytest.mark.parametrize(
    "expression",
    [
        "9**3000000 % 7",
        "9**900 * 9**900",
        "('a'*300000000)|length",
        "(300000000*[1])|length",
        "'%300000000d' % 1",
        "'%(a)300000000d' % {'a': 1}",
        "'%*d' % (300000000, 1)",
        "'%300000000d'|format(1)",
        "'{:>300000000}'.format(1)",
        "'{:>{}}'.format(1, '300000000')",
        "'a'.center(300000000)",
        "'a'.zfill(width)",
        "'a'|center(300000000)",
        "['a']|map('center', 300000000)|list",
        "'a'|indent(width=300000000, first=true)",
        "'a'|batch(300000000, 'x')|list",
        "'a'|slice(300000000)|list",
        "1|round(3000000, 'ceil')",
        "[1]|tojson(indent=300000000)",
    ],
)
def test_one_expression_cannot_ask_for_much(expression: str) -> None:
    with pytest.raises(TemplateUnusable, match="too much"):
        render("{% set width = 300000000 %}{{ (" + expression + ")|string|length }}")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'-' * 20", "-" * 20),
        ("7 % 4 * 2 ** 10", "3072"),
        ("1.5 * 2", "3.0"),
        ("'%5d %s' % (1, 'x')", "    1 x"),
        ("'%03d'|format(7)", "007"),
        ("'{:>4}{}'.format(1, 'x')", "   1x"),
        ("'a'|center(3)", " a "),
        ("123456789|round(1)", "123456789"),
        ("'x\\ny'|indent(2)", "x\n  y"),
    ],
)
def test_what_is_usual_is_no_more_than_it_was(expression: str, expected: str) -> None:
    assert render("{{ " + expression + " }}") == expected


def test_an_endless_output_is_stopped() -> None:
    with pytest.raises(TemplateUnusable, match="more than 1000 characters"):
        render("{% for i in range(1000) %}{{ 'x' * 100 }}{% endfor %}", max_characters=1000)


def test_a_template_that_is_too_long_is_not_compiled() -> None:
    with pytest.raises(TemplateUnusable, match="more than 1048576 characters"):
        render("x" * (2**20 + 1))


def test_a_broken_template_is_told_only_to_those_who_use_it() -> None:
    template = CompiledTemplate("{% for %}", variables={})
    with pytest.raises(TemplateUnusable):
        template.render(conversation(HELLO))

"""What a chat remembers, and the commands between questions."""

from __future__ import annotations

import json

import pytest

from mlxmesh_cli.screen.conversation import HELP, Command, Conversation, parse_line


def talk() -> Conversation:
    conversation = Conversation("pocket", system="be brief")
    conversation.record("hi", "hello")
    return conversation


def test_the_next_question_comes_after_all_that_was_said() -> None:
    assert talk().messages("and?") == [
        ("system", "be brief"),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "and?"),
    ]


def test_a_question_without_an_answer_is_forgotten() -> None:
    conversation = Conversation("pocket")
    conversation.record("lost", "")
    assert conversation.messages("again") == [("user", "again")]


def test_it_is_saved_for_people_and_for_programs() -> None:
    markdown = "## system\n\nbe brief\n\n## user\n\nhi\n\n## assistant\n\nhello\n"
    assert talk().as_markdown() == markdown
    saved = json.loads(talk().as_json())
    assert saved["model"] == "pocket"
    assert saved["messages"][-1] == {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  hello \n", "hello"),
        ("", ""),
        ("/help", Command("help")),
        ("/system  be brief ", Command("system", "be brief")),
        ("//etc/hosts", "/etc/hosts"),
        ("a /quit", "a /quit"),
    ],
)
def test_a_slash_begins_a_command_and_two_a_message(line: str, expected: Command | str) -> None:
    assert parse_line(line) == expected


def test_help_names_every_command() -> None:
    for name in ("help", "quit", "reset", "system", "model", "save"):
        assert f"/{name}" in HELP

"""`mlxmesh chat` in a terminal, through a real gateway: what is typed, pasted and interrupted."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_shared.errors import ContextTooLong
from tests.fakes.public_services import FakeGeneration
from tests.terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER, PROMPT, UP, Terminal, terminal

LONG_LINE = " ".join(f"w{number:04}" for number in range(1700))
MAX_TTY_LINE_BYTES = 4095
COLUMNS = 40


class Chat:
    """A chat in a terminal, and the service that answers each question with its words."""

    def __init__(self, shown: Terminal, generation: FakeGeneration) -> None:
        self.shown = shown
        self.generation = generation

    async def asks(self, question: str) -> None:
        """Types a question, and waits for the next prompt."""
        await self.shown.types(question + ENTER)
        await self.is_answered()

    async def is_answered(self) -> None:
        """Waits for the next prompt."""
        await self.shown.shows(PROMPT)

    def asked(self) -> list[tuple[str, str]]:
        """Role and text of the last request's messages."""
        messages = self.generation.requests[-1].chat.messages
        return [(g.Role.Name(each.role)[5:].lower(), each.content) for each in messages]


@asynccontextmanager
async def chat(stand: Any, home: Path, *arguments: str) -> AsyncIterator[Chat]:
    await stand.models()
    generation = await stand.generation()
    address = await stand.gateway()
    client = await stand.client(address)
    for name in ("pocket", "other"):
        await client.register_model(name=name, directory="/models")
    async with opened(home, address, *arguments) as shown:
        yield Chat(shown, generation)


@asynccontextmanager
async def opened(home: Path, address: str, *arguments: str) -> AsyncIterator[Terminal]:
    command = ("-m", "mlxmesh_cli", "chat", "--address", address, *arguments)
    env = {"XDG_STATE_HOME": str(home / "state"), "MLXMESH_DATA_DIR": str(home / "mesh")}
    async with terminal(*command, env=env, columns=COLUMNS) as shown:
        await shown.shows("/help")
        await shown.shows(PROMPT)
        yield shown


async def test_it_says_who_answers_and_leaves_on_ctrl_d(stand: Any, tmp_path: Path) -> None:
    async with chat(stand, tmp_path) as chatting:
        assert "pocket@1" in chatting.shown.text
        await chatting.asks("hello you")
        assert chatting.shown.text.count("hello you") >= 2
        await chatting.shown.types(CTRL_D)
        assert await chatting.shown.ends() == 0


async def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(
    stand: Any, tmp_path: Path
) -> None:
    async with chat(stand, tmp_path) as chatting:
        chatting.generation.go_on.clear()
        await chatting.shown.types("first second third" + ENTER)
        await chatting.shown.ends_in("\nfirst")
        await chatting.shown.types(CTRL_C)
        await chatting.shown.shows("response stopped")
        async with asyncio.timeout(20):
            while not chatting.generation.interrupted:
                await asyncio.sleep(0.01)
        chatting.generation.go_on.set()
        await chatting.is_answered()
        await chatting.asks("and now")
        assert chatting.generation.interrupted == 1
        assert chatting.asked() == [
            ("user", "first second third"),
            ("assistant", "first "),
            ("user", "and now"),
        ]


async def test_ctrl_c_at_the_prompt_drops_the_line_at_once(stand: Any, tmp_path: Path) -> None:
    async with chat(stand, tmp_path) as chatting:
        await chatting.shown.types("not this" + CTRL_C)
        await chatting.shown.shows("Ctrl-D or /quit leaves")
        await chatting.is_answered()
        await chatting.asks("but this")
        assert chatting.asked() == [("user", "but this")]
        await chatting.shown.types("/quit" + ENTER)
        assert await chatting.shown.ends() == 0


async def test_a_line_of_10000_bytes_arrives_whole(stand: Any, tmp_path: Path) -> None:
    assert len(LONG_LINE) > 10_000 > MAX_TTY_LINE_BYTES
    async with chat(stand, tmp_path) as chatting:
        await chatting.shown.pastes(LONG_LINE)
        await chatting.asks("")
        assert chatting.asked() == [("user", LONG_LINE)]


async def test_pasted_lines_are_one_question(stand: Any, tmp_path: Path) -> None:
    async with chat(stand, tmp_path) as chatting:
        await chatting.shown.pastes("def f():\n    return 1\n")
        await chatting.asks("what is it?")
        assert chatting.asked() == [("user", "def f():\n    return 1\nwhat is it?")]


async def test_a_line_pasted_during_an_answer_waits_for_its_end(stand: Any, tmp_path: Path) -> None:
    async with chat(stand, tmp_path) as chatting:
        chatting.generation.go_on.clear()
        await chatting.shown.types("one two" + ENTER)
        await chatting.shown.ends_in("\none")
        before = len(chatting.shown.text)
        await chatting.shown.pastes("a\nb")
        chatting.generation.go_on.set()
        await chatting.shown.ends_in("> a\n  b")
        assert chatting.shown.text[before:].startswith(f" two\n{PROMPT}")
        await chatting.asks(" c")
        assert chatting.asked()[-1] == ("user", "a\nb c")


async def test_a_question_may_have_several_lines(stand: Any, tmp_path: Path) -> None:
    async with chat(stand, tmp_path) as chatting:
        await chatting.asks(f"one\\{ENTER}two{ALT_ENTER}three")
        assert chatting.asked() == [("user", "one\ntwo\nthree")]


async def test_arrow_keys_bring_questions_back_also_in_the_next_chat(
    stand: Any, tmp_path: Path
) -> None:
    async with chat(stand, tmp_path) as chatting:
        await chatting.asks("remember me")
        await chatting.asks(UP)
        assert chatting.asked()[-1] == ("user", "remember me")
        history = tmp_path / "state" / "mlxmesh" / "chat_history"
        assert stat.S_IMODE(history.stat().st_mode) == 0o600
        address = await stand.gateway()
        async with opened(tmp_path, address) as shown:
            await shown.types(UP + ENTER)
            await shown.shows(PROMPT)
    assert [each.content for each in chatting.generation.requests[-1].chat.messages] == [
        "remember me"
    ]


async def test_without_history_no_file_is_made(stand: Any, tmp_path: Path) -> None:
    async with chat(stand, tmp_path, "--no-history") as chatting:
        await chatting.asks("forget me")
    assert not (tmp_path / "state").exists()


async def test_commands_change_the_conversation(stand: Any, tmp_path: Path) -> None:
    async with chat(stand, tmp_path) as chatting:
        await chatting.asks("/system be brief")
        await chatting.asks("hello")
        assert chatting.asked() == [("system", "be brief"), ("user", "hello")]
        await chatting.asks("/reset")
        await chatting.asks("/model other")
        assert "other@1" in chatting.shown.text
        await chatting.asks("//again")
        assert chatting.asked() == [("system", "be brief"), ("user", "/again")]
        assert chatting.generation.requests[-1].model == "other"
        await chatting.asks("/model nothing")
        assert "no model nothing" in chatting.shown.text
        await chatting.asks("/sing")
        assert "unknown command /sing" in chatting.shown.text.replace("\n", "")


async def test_a_conversation_is_saved_once(stand: Any, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    async with chat(stand, tmp_path) as chatting:
        await chatting.asks("hello")
        await chatting.asks(f"/save {saved}")
        await chatting.asks(f"/save {saved}")
        assert "File exists" in chatting.shown.text.replace("\n", " ")
    assert json.loads(saved.read_text()) == {
        "model": "pocket",
        "messages": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hello "},
        ],
    }
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600


async def test_an_error_costs_one_answer(stand: Any, tmp_path: Path) -> None:
    async with chat(stand, tmp_path) as chatting:
        await chatting.asks("one")
        chatting.generation.failures.append(ContextTooLong("more than 8 tokens"))
        await chatting.asks("two")
        assert "more than 8 tokens; /reset" in chatting.shown.text
        await chatting.asks("three")
        assert [text for _, text in chatting.asked()] == ["one", "one ", "three"]


async def test_no_word_is_broken_also_in_a_terminal_that_was_resized(
    stand: Any, tmp_path: Path
) -> None:
    words = [f"word{number:02}" for number in range(30)]
    async with chat(stand, tmp_path) as chatting:
        chatting.generation.go_on.clear()
        await chatting.shown.pastes(" ".join(words))
        await chatting.shown.types(ENTER)
        await chatting.shown.ends_in("\nword00")
        chatting.shown.resize(23)
        chatting.generation.go_on.set()
        await chatting.is_answered()
        lines = chatting.shown.text.split("\n")
        answer = [line.split() for line in lines if line.startswith("word")]
        assert [word for line in answer for word in line] == words
        assert {len(line) for line in answer} == {3}

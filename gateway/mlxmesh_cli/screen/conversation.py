"""A conversation with a model, and the commands that change it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

MAX_NAME_CHARACTERS = 80
HELP = """\
/help         show this list
/quit         leave the chat, like Ctrl-D
/reset        start a new conversation; keep the system message
/system       show the system message
/system TEXT  set it; `/system -` removes it
/model        show the model
/model NAME   switch to another model
/save FILE    save the conversation to a new file (.md or .json)
//TEXT        send a message that starts with a slash

Enter sends. Alt-Enter, or a backslash at the end of a line, starts a new line; pasted lines stay \
together. Ctrl-C stops a response and keeps its text so far. Ctrl-D on an empty line leaves."""


@dataclass(frozen=True)
class Command:
    """A line that begins with a slash."""

    name: str
    argument: str = ""


@dataclass
class Conversation:
    """The model, the system message and the turns so far."""

    model: str
    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(question, answer), oldest first."""

    def messages(self, question: str) -> list[tuple[str, str]]:
        """The messages of the next request."""
        said = [
            message
            for asked, answer in self.turns
            for message in (("user", asked), ("assistant", answer))
        ]
        system = [("system", self.system)] if self.system else []
        return [*system, *said, ("user", question)]

    def record(self, question: str, answer: str) -> None:
        """Adds a turn, unless its answer is empty: templates need alternating roles."""
        if answer:
            self.turns.append((question, answer))

    def as_markdown(self) -> str:
        """The conversation as Markdown."""
        said = self.messages("")[:-1]
        return "\n".join(f"## {role}\n\n{text.strip()}\n" for role, text in said)

    def as_json(self) -> str:
        """The conversation as JSON: the model, and messages as Generate accepts them."""
        said = [{"role": role, "content": text} for role, text in self.messages("")[:-1]]
        return json.dumps({"model": self.model, "messages": said}, indent=2, ensure_ascii=False)


def parse_line(line: str) -> Command | str:
    """A command, or the message to send."""
    text = line.strip()
    if text.startswith("//"):
        return text[1:]
    if not text.startswith("/"):
        return text
    name, _, argument = text[1:].partition(" ")
    return Command(name[:MAX_NAME_CHARACTERS], argument.strip())

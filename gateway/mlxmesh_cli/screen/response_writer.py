"""Writes the outputs of a generation to standard output, one after the other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mlxmesh.generation.v1.generation_pb2 import FINISH_REASON_LENGTH
from mlxmesh_cli.screen.output import is_terminal, print_view, say, terminal_columns
from mlxmesh_cli.screen.output_parts import call_text, logprobs_table
from mlxmesh_cli.screen.word_wrap import WordWrap, wrapped
from mlxmesh_client import GenerationEvent, Outputs, OutputSoFar

if TYPE_CHECKING:
    from mlxmesh.generation.v1.generation_pb2 import TokenLogprob

Kind = Literal["reasoning", "text"]


class ResponseWriter:
    """Shows the output that comes next while it arrives; those after it wait for its end.

    On a terminal, long lines are wrapped between words, and reasoning is dimmed. Elsewhere text is
    unchanged, and reasoning is left out.
    """

    def __init__(self, outputs: Outputs, *, expected: int = 1) -> None:
        """outputs: what has arrived. expected: how many outputs are asked for."""
        self._outputs = outputs
        self._expected = expected
        self._index = 0
        self._shown: dict[Kind, int] = {"reasoning": 0, "text": 0}
        """How many pieces of the output that is shown were written."""
        self._terminal = is_terminal()
        self._wrap = WordWrap(terminal_columns) if self._terminal else None
        self._last: Kind | None = None
        """What was written last of the output that is shown."""
        self._headed = -1
        """The last output that has a heading."""

    def write(self, event: GenerationEvent) -> None:
        """Writes what can be shown after an event that was added to the outputs."""
        if event.started is not None and self._expected > 1:
            self._heading()
        while self._index < len(self._outputs):
            output = self._outputs[self._index]
            if output.has_events:
                self._show(output)
            if output.finished is None and not event.is_last:
                return
            self._index += 1

    def end(self) -> None:
        """Ends the line of an output that is incomplete, and shows the prompt's tokens."""
        if self._last is not None:
            self._end_line()
        if self._outputs.prompt_logprobs:
            self._put("\n")
            say("prompt", bold=True)
            self._table(self._outputs.prompt_logprobs)

    def _show(self, output: OutputSoFar) -> None:
        if self._expected > 1 or output.index:
            self._heading()
        self._pieces("reasoning", output.reasoning_texts)
        self._pieces("text", output.texts)
        if output.finished is not None:
            self._end_output(output)

    def _pieces(self, kind: Kind, pieces: list[str]) -> None:
        text = "".join(pieces[self._shown[kind] :])
        self._shown[kind] = len(pieces)
        if not text or (kind == "reasoning" and not self._terminal):
            return
        if self._last not in (None, kind):
            self._end_line()
            self._put("\n")
        self._last = kind
        self._put(self._wrap.feed(text) if self._wrap is not None else text, kind)

    def _end_output(self, output: OutputSoFar) -> None:
        calls = output.tool_calls
        cut = calls[-1:] if _is_cut(output) else []
        if self._last is not None or not calls:
            self._end_line()
        for call in calls:
            name, _, arguments = call_text(call, is_cut=call in cut).partition("\n")
            say(self._safe(name), "cyan")
            say(self._safe(arguments))
        if output.logprobs:
            self._put("\n")
            self._table(output.logprobs)
        self._shown = {"reasoning": 0, "text": 0}

    def _table(self, tokens: Sequence[TokenLogprob]) -> None:
        print_view(logprobs_table(tokens))

    def _heading(self) -> None:
        if self._headed == self._index:
            return
        self._headed = self._index
        if self._index:
            self._put("\n")
        of = f" of {self._expected}" if self._expected > 1 else ""
        say(f"output {self._index + 1}{of}", bold=True)

    def _end_line(self) -> None:
        rest = self._wrap.flush() if self._wrap is not None else ""
        self._put(rest, self._last)
        self._put("\n")
        self._last = None

    def _safe(self, text: str) -> str:
        return wrapped(text, terminal_columns()) if self._terminal else text

    def _put(self, text: str, kind: Kind | None = None) -> None:
        if not text:
            return
        if kind == "reasoning":
            say(text, dim=True, nl=False)
        else:
            sys.stdout.write(text)
        sys.stdout.flush()


def _is_cut(output: OutputSoFar) -> bool:
    end = output.finished
    return end is not None and end.finish_reason == FINISH_REASON_LENGTH

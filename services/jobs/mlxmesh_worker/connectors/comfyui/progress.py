"""How far a prompt has come, from the events of ComfyUI's WebSocket. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


class PromptProgress:
    """The progress of one prompt."""

    def __init__(self, prompt_id: str, nodes: Mapping[str, str]) -> None:
        """nodes: the class of each node, by its id."""
        self._prompt_id = prompt_id
        self._nodes = nodes
        self._finished: set[str] = set()
        self._current = ""
        self.done = 0
        """Steps of the current node; 0 if it tells none."""
        self.total = 0
        self.ended = False

    @property
    def fraction(self) -> float:
        """Nodes that finished and the part of the current one, of all nodes."""
        part = self.done / self.total if self.total and self._current not in self._finished else 0
        return min(1.0, (len(self._finished) + part) / max(1, len(self._nodes)))

    @property
    def text(self) -> str:
        """What runs."""
        return self._nodes.get(self._current, "")

    def take(self, event: str, data: Mapping[str, Any]) -> bool:
        """Takes an event. Returns whether it was about this prompt."""
        # After a reconnect, ComfyUI names the current node without its prompt.
        if (
            data.get("prompt_id", self._prompt_id if event == "executing" else "")
            != self._prompt_id
        ):
            return False
        match event:
            case "execution_cached":
                self._finish(*data.get("nodes", ()))
            case "executing":
                self._run(data.get("node"))
            case "executed":
                self._finish(str(data.get("node")))
            case "progress":
                self._step(data)
            case "progress_state":
                self._take_nodes(data.get("nodes"))
            case _:
                self.ended = self.ended or event in ENDS
        return True

    def _run(self, node: object) -> None:
        self._finish(self._current)
        # No node: it ended, in versions before execution_success.
        self._current, self.done, self.total = str(node or ""), 0, 0
        self.ended = self.ended or node is None

    def _finish(self, *nodes: str) -> None:
        # Nodes that a node was expanded to are not of the prompt.
        self._finished |= {node for node in nodes if node in self._nodes}

    def _step(self, data: Mapping[str, Any]) -> None:
        value, most = data.get("value"), data.get("max")
        if isinstance(value, int | float) and isinstance(most, int | float) and most > 0:
            self.done, self.total = round(min(value, most)), round(most)

    def _take_nodes(self, nodes: object) -> None:
        if not isinstance(nodes, dict):
            return
        for node_id, state in cast("dict[str, Any]", nodes).items():
            if state.get("state") == "finished":
                self._finish(node_id)
            elif state.get("state") == "running":
                self._current = node_id
                self._step(state)

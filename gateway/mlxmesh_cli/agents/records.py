"""What was changed in an agent's configuration, kept so that it can be undone.

One file an agent in `~/.local/state/mlxmesh/connect` ($XDG_STATE_HOME), which only its owner reads:
it has the whole file as it was before.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlxmesh_cli.agents.change import Applied
from mlxmesh_shared.host.atomic_file import write_atomically

PRIVATE = 0o600


@dataclass(frozen=True)
class Record:
    """One change of one file."""

    file: str
    before: str | None
    """The text before; None where there was no file."""
    mode: int
    """The permissions before."""
    after: str
    """The SHA-256 of the text that was written."""
    applied: Sequence[Applied]


def digest(text: str) -> str:
    """As of Record.after."""
    return hashlib.sha256(text.encode()).hexdigest()


def _applied(fields: dict[str, Any]) -> Applied:
    fields["path"] = tuple(fields["path"])
    return Applied(**fields)


class RecordFile:
    """The record of one agent."""

    def __init__(self, agent: str) -> None:
        state = os.environ.get("XDG_STATE_HOME")
        home = Path(state) if state else Path.home() / ".local" / "state"
        self.path = home / "mlxmesh" / "connect" / f"{agent}.json"

    def read(self) -> Record | None:
        """The record; None without one, or where it is damaged."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            applied = [_applied(one) for one in content.pop("applied")]
            return Record(**content, applied=applied)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, record: Record) -> None:
        """Keeps the record in place of the last one. Raises: OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = json.dumps(asdict(record), ensure_ascii=False)
        write_atomically(self.path, content.encode(), mode=PRIVATE)

    def remove(self) -> None:
        """Forgets it. Raises: OSError."""
        self.path.unlink(missing_ok=True)

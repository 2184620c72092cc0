"""Writes an agent's configuration, and restores it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from mlxmesh_cli.agents.change import Applied, Edited, Setting, apply, revert
from mlxmesh_cli.agents.formats import Format, UnusableFile
from mlxmesh_cli.agents.records import PRIVATE, Record, RecordFile, digest
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.host.atomic_file import write_atomically


@dataclass(frozen=True)
class Edit:
    """A change of a file that has not been made yet."""

    file: Path
    now: str | None
    """The text as it is; None without a file."""
    then: str | None
    """The text as it would be; None for no file."""
    base: str | None = None
    """The text without anything of ours."""
    applied: Sequence[Applied] = ()
    mode: int = PRIVATE

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return self.now != self.then

    def diff(self) -> str:
        """The change, as a unified diff."""
        old, new = ((text or "").splitlines() for text in (self.now, self.then))
        name = str(self.file)
        return "\n".join(unified_diff(old, new, name, name, lineterm=""))


class Connection:
    """An agent's configuration on this machine."""

    def __init__(self, form: Format, file: Path, records: RecordFile) -> None:
        self._form = form
        self._file = file
        self._records = records

    def planned(self, settings: Sequence[Setting]) -> Edit:
        """What connecting would change. Raises: IllegalState, OSError."""
        record = self._record()
        now, mode = self._read(self._file), self._mode(record)
        try:
            base = now if record is None else self._base(record, now)
            then, applied = apply(self._form, base or "", settings)
        except UnusableFile as error:
            raise self._unusable(error) from None
        return Edit(self._file, now, then, base, applied, mode)

    def connect(self, edit: Edit) -> None:
        """Makes the change. Raises: OSError."""
        assert edit.then is not None, "connecting removes no file"
        # First: what cannot be undone is not done.
        self._records.write(
            Record(str(edit.file), edit.base, edit.mode, digest(edit.then), edit.applied)
        )
        edit.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(edit.file, edit.then.encode(), mode=PRIVATE)

    def planned_undo(self) -> Edit:
        """What undoing would change. Raises: IllegalState, OSError."""
        record = self._records.read()
        if record is None:
            raise IllegalState("nothing to undo: `mlxmesh connect` has changed no file of it")
        file = Path(record.file)
        now = self._read(file)
        if now is None or digest(now) == record.after:
            then = None if now is None else record.before
            return Edit(file, now, then, mode=record.mode)
        try:
            return Edit(file, now, revert(self._form, now, record.applied), mode=record.mode)
        except Edited as error:
            raise IllegalState(
                f"{file} was edited since, also what `mlxmesh connect` has set ({error}); edit it"
                f" yourself. The file as it was before is `before` in {self._records.path}"
            ) from None
        except UnusableFile as error:
            raise self._unusable(error) from None

    def undo(self, edit: Edit) -> None:
        """Makes the change of planned_undo. Raises: OSError."""
        if edit.then is None:
            edit.file.unlink(missing_ok=True)
        else:
            write_atomically(edit.file, edit.then.encode(), mode=edit.mode)
        self._records.remove()

    def _record(self) -> Record | None:
        record = self._records.read()
        return record if record is not None and record.file == str(self._file) else None

    def _base(self, record: Record, now: str | None) -> str | None:
        """The file without what was set before; values that were edited since count as theirs."""
        if now is None:
            return None
        if digest(now) == record.after:
            return record.before
        return revert(self._form, now, record.applied, strict=False)

    def _read(self, file: Path) -> str | None:
        try:
            return file.read_bytes().decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise self._unusable(UnusableFile("it is not UTF-8")) from None

    def _mode(self, record: Record | None) -> int:
        if record is not None:
            return record.mode
        return self._file.stat().st_mode & 0o777 if self._file.exists() else PRIVATE

    def _unusable(self, error: UnusableFile) -> IllegalState:
        return IllegalState(
            f"{self._file} cannot be edited: {error}. Fix it, or take the lines of --print"
        )

"""The history of a chat: private, bounded, and no reason for a chat to fail."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mlxmesh_cli.screen.chat_prompt import MAX_HISTORY_BYTES, PrivateHistory, history_path


def kept(path: Path) -> list[str]:
    """Newest first."""
    return list(PrivateHistory(path).load_history_strings())


def test_questions_are_kept_newest_first(tmp_path: Path) -> None:
    history = PrivateHistory(tmp_path / "mlxmesh" / "history")
    history.store_string("one")
    history.store_string("two\nlines")
    assert kept(tmp_path / "mlxmesh" / "history") == ["two\nlines", "one"]


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history"
    path.parent.mkdir()
    path.write_text("")
    path.chmod(0o644)
    PrivateHistory(path).store_string("secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_oldest_are_dropped_when_it_is_long(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = PrivateHistory(path)
    for number in range(40):
        history.store_string(f"{number} " + "x" * (MAX_HISTORY_BYTES // 20))
    questions = kept(path)
    assert path.stat().st_size <= MAX_HISTORY_BYTES
    assert [each.split()[0] for each in questions] == [str(39 - at) for at in range(19)]


def test_one_that_is_too_long_alone_is_dropped(tmp_path: Path) -> None:
    PrivateHistory(tmp_path / "history").store_string("x" * (MAX_HISTORY_BYTES + 1))
    assert kept(tmp_path / "history") == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "history").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="history"):
        PrivateHistory(tmp_path / "history")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_goes_away_costs_no_chat(tmp_path: Path) -> None:
    history = PrivateHistory(tmp_path / "folder" / "history")
    (tmp_path / "folder" / "history").unlink()
    (tmp_path / "folder").rmdir()
    history.store_string("lost")


def test_it_is_in_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_path() == tmp_path / "mlxmesh" / "chat_history"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert history_path() == Path.home() / ".local" / "state" / "mlxmesh" / "chat_history"

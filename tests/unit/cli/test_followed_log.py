"""`mlxmesh logs --follow` over the rotation of a log: every line, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxmesh_cli.screen.logs import MAX_POLLS_FOR_COPY, FollowedLog, last_lines
from mlxmesh_shared.host.log_file import LogFile


@pytest.fixture
def log(tmp_path: Path) -> LogFile:
    return LogFile(tmp_path / "model.log", max_bytes=10, max_files=3)


def test_lines_come_once_over_many_rotations(log: LogFile) -> None:
    log.append("before it is followed")
    followed = FollowedLog(log.path)
    seen: list[str] = []
    for number in range(20):
        log.append(f"line {2 * number}")
        if number % 3 == 0:
            seen += followed.new_lines()
        log.append(f"line {2 * number + 1}")
        log.rotate_if_large()
        seen += followed.new_lines()
    assert log.part(2).exists()
    assert seen == [f"line {number}" for number in range(40)]


def test_a_log_that_has_grown_beyond_its_old_size_was_still_rotated(log: LogFile) -> None:
    log.append("0123456789")
    followed = FollowedLog(log.path)
    log.append("last")
    log.rotate_if_large()
    log.append("the first line of the new file, which is longer")
    assert list(followed.new_lines()) == [
        "last",
        "the first line of the new file, which is longer",
    ]


def test_nothing_is_told_twice_while_a_rotation_is_under_way(log: LogFile) -> None:
    log.append("0123456789")
    followed = FollowedLog(log.path)
    text = log.path.read_bytes() + b"last\n"
    log.path.write_bytes(b"")  # the copy has no name yet
    assert list(followed.new_lines()) == []
    log.part(1).write_bytes(text)
    assert list(followed.new_lines()) == ["last"]


def test_a_log_without_older_parts_is_followed_too(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "model.log", max_bytes=10, max_files=1)
    log.append("0123456789")
    followed = FollowedLog(log.path)
    log.rotate_if_large()
    log.append("new")
    seen = [line for _ in range(MAX_POLLS_FOR_COPY) for line in followed.new_lines()]
    assert seen == ["new"]


def test_an_unfinished_line_waits_for_its_end(log: LogFile) -> None:
    log.path.touch()
    followed = FollowedLog(log.path)
    with log.path.open("ab") as file:
        file.write(b"caf")
        file.flush()
        assert list(followed.new_lines()) == []
        file.write("é\n".encode())
    assert list(followed.new_lines()) == ["café"]


def test_the_end_of_a_log_reaches_into_its_older_part(log: LogFile) -> None:
    log.append("0123456789")
    log.rotate_if_large()
    log.append("new")
    assert last_lines(log.path, 5) == ["0123456789", "new"]
    assert last_lines(log.path, 1) == ["new"]
    assert last_lines(log.path, 0) == []

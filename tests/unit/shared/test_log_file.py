import os
from pathlib import Path

from mlxmesh_shared.host.log_file import TAIL_BYTES, LogFile


def test_no_log_has_no_tail(tmp_path: Path) -> None:
    assert LogFile(tmp_path / "none.log").tail() == ()


def test_tail_is_the_last_lines(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "e.log")
    for number in range(100):
        log.append(f"line {number}")
    assert log.tail(2) == ("line 98", "line 99")
    assert len(log.tail()) == 50


def test_tail_of_huge_lines_and_broken_text_is_bounded(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "e.log")
    log.path.write_bytes(b"\xff\xfe" * TAIL_BYTES + b"\nend\n")
    *_, last = tail = log.tail()
    assert last == "end"
    assert sum(map(len, tail)) <= TAIL_BYTES


def test_large_log_is_rotated_under_a_writing_process(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "e.log", max_bytes=10)
    writer = log.open_for_append()
    os.write(writer, b"0123456789\n")
    log.rotate_if_large()
    os.write(writer, b"next\n")
    log.rotate_if_large()  # small again: nothing happens
    os.close(writer)
    assert log.path.read_bytes() == b"next\n"
    assert (tmp_path / "e.log.1").read_bytes() == b"0123456789\n"


def test_older_parts_are_numbered_and_the_oldest_goes(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "e.log", max_bytes=1, max_files=3)
    for number in range(5):
        log.append(f"part {number}")
        log.rotate_if_large()
    assert log.path.read_bytes() == b""
    assert log.part(1).read_text() == "part 4\n"
    assert log.part(2).read_text() == "part 3\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.log", "e.log.1", "e.log.2"]


def test_a_single_file_begins_anew(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "e.log", max_bytes=1, max_files=1)
    log.append("old")
    log.rotate_if_large()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b""]


def test_log_is_private_to_its_owner(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "e.log")
    log.append("x")
    assert log.path.stat().st_mode & 0o077 == 0

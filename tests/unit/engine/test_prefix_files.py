"""Files of prefixes: whole, damaged, too many, written by several engines and by killed ones."""

import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.prefixes.directory import PrefixDirectory
from mlxmesh_engine.prefixes.host_row import CorruptFile, HostRow, decode, encode, joined
from mlxmesh_engine.prefixes.identity import identity

TOKENS = 32


def row(number: int, *, dims: int = 4, tokens: int = TOKENS) -> HostRow:
    """Keys of 4 bytes and values of 2 bytes."""
    draw = np.random.default_rng(number)
    keys = draw.integers(0, 2**32, (2, 3, tokens, dims), np.uint32)
    values = draw.integers(0, 2**16, (2, 3, tokens, dims), np.uint16)
    return HostRow((keys, values), ("float32", "bfloat16"))


def digest(number: int) -> bytes:
    return sha256(str(number).encode()).digest()


def assert_equal(one: HostRow | None, other: HostRow) -> None:
    assert one is not None
    assert (one.types, one.structure) == (other.types, other.structure)
    for mine, theirs in zip(one.arrays, other.arrays, strict=True):
        assert np.array_equal(mine, theirs)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class Store:
    """Directories of one root, and what is in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: list[PrefixDirectory] = []

    def open(self, *, limit_bytes: int = 2**30, name: str = "m") -> PrefixDirectory:
        directory = PrefixDirectory(self.root, limit_bytes, lambda: name, rescan_s=0.05)
        self._open.append(directory)
        assert directory.wait_opened(30)
        return directory

    def files(self) -> list[Path]:
        return sorted(self.root.glob("*/*.prefix"))

    def close(self) -> None:
        for directory in self._open:
            directory.close(10)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "prefixes")
    yield made
    made.close()


def write(directory: PrefixDirectory, *numbers: int) -> None:
    for number in numbers:
        eventually(lambda number=number: _written(directory, number))


def _written(directory: PrefixDirectory, number: int) -> bool:
    directory.write(digest(number), TOKENS, row(number))
    return digest(number) in directory


def read(directory: PrefixDirectory, *numbers: int) -> HostRow | None:
    return directory.read([(digest(number), TOKENS) for number in numbers]).result(30)


@given(st.integers(0, 9), st.integers(1, 5), st.none() | st.lists(st.integers()))
def test_a_file_holds_what_was_encoded(number: int, dims: int, structure: object) -> None:
    made = row(number, dims=dims)
    made = HostRow(made.arrays, made.types, structure)
    assert_equal(decode("n", encode("n", made)), made)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_every_changed_byte_is_noticed(place: int, change: int) -> None:
    file = bytearray(encode("n", row(1)))
    file[place % len(file)] ^= change
    with pytest.raises(CorruptFile):
        decode("n", bytes(file))


@given(st.integers(0, 10**6))
def test_every_truncation_is_noticed(length: int) -> None:
    file = encode("n", row(1))
    with pytest.raises(CorruptFile):
        decode("n", file[: length % len(file)])
    with pytest.raises(CorruptFile):
        decode("n", file + b"x")


def test_a_file_under_another_name_is_noticed() -> None:
    with pytest.raises(CorruptFile, match="another prefix"):
        decode("n", encode("m", row(1)))


def test_parts_are_joined_again() -> None:
    whole = row(1, tokens=96)
    parts = [whole.part(start, start + 32) for start in (0, 32, 64)]
    assert_equal(joined(parts), whole)
    assert joined(parts).tokens == 96


def test_what_is_written_is_read_and_survives_a_restart(store: Store) -> None:
    first = store.open()
    write(first, 1, 2, 3)
    assert_equal(read(first, 1, 2), joined([row(1), row(2)]))
    second = store.open()
    eventually(lambda: digest(3) in second)
    assert_equal(read(second, 3), row(3))
    assert read(second, 4) is None
    assert second.load.nbytes == sum(path.stat().st_size for path in store.files())
    assert (second.load.hits, second.load.writes) == (1, 0)


def test_only_the_user_may_read_them(store: Store) -> None:
    write(store.open(), 1)
    for path, mode in ((store.files()[0], 0o600), (store.root, 0o700), (store.root / "m", 0o700)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_read_ends_at_the_first_missing_file(store: Store) -> None:
    directory = store.open()
    write(directory, 1, 2, 3)
    _path(store, 2).unlink()
    assert_equal(read(directory, 1, 2, 3), row(1))
    assert digest(2) not in directory


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"", None])
def test_a_damaged_file_is_ignored_and_deleted(
    store: Store, damage: Callable[[bytes], bytes] | None
) -> None:
    directory = store.open()
    write(directory, 1)
    path = _path(store, 1)
    content = bytearray(path.read_bytes())
    content[random.Random(1).randrange(len(content))] ^= 1
    path.write_bytes(damage(bytes(content)) if damage else content)
    assert read(directory, 1) is None
    assert not path.exists()
    assert directory.load.corrupt == 1
    write(directory, 1)
    assert_equal(read(directory, 1), row(1))


def test_the_least_recently_used_go_first_also_of_other_models(store: Store) -> None:
    size = len(encode("n" * 75, row(1)))
    other = store.open(name="older")
    write(other, 100, 101)
    directory = store.open(limit_bytes=12 * size)
    write(directory, 1, 2, 3)
    _age(store, 3600)
    # Used again, by a read.
    read(directory, 1)
    eventually(lambda: _path(store, 1).stat().st_mtime > time.time() - 600)
    write(directory, *range(10, 18))
    eventually(lambda: digest(17) in directory)
    left = [number for number in (1, 2, 3, 100, 101) if _exists(store, number)]
    assert left == [1, 3]
    assert sum(path.stat().st_size for path in store.files()) <= 12 * size
    assert digest(2) not in directory


def test_a_file_above_the_limit_is_not_written(store: Store) -> None:
    directory = store.open(limit_bytes=100)
    directory.write(digest(1), TOKENS, row(1))
    directory.close(10)
    assert store.files() == []


def test_engines_find_each_others_files(store: Store) -> None:
    first, second = store.open(), store.open()
    write(first, 1)
    eventually(lambda: digest(1) in second)
    assert_equal(read(second, 1), row(1))
    write(second, 1)
    assert second.load.writes == 0


def test_what_cannot_be_written_is_counted_and_tried_again_later(tmp_path: Path) -> None:
    now = [1000.0]
    directory = PrefixDirectory(tmp_path / "p", 2**30, lambda: "m", clock=lambda: now[0])
    write(directory, 1)
    # A disk that is full looks like this: the file cannot be made.
    folder = tmp_path / "p" / "m"
    folder.rename(tmp_path / "away")
    folder.write_text("in the way")
    eventually(lambda: _failed(directory))
    assert digest(2) not in directory
    folder.unlink()
    (tmp_path / "away").rename(folder)
    now[0] += 3600
    write(directory, 3)
    assert_equal(read(directory, 1, 3), joined([row(1), row(3)]))
    directory.close(10)


def _failed(directory: PrefixDirectory) -> bool:
    directory.write(digest(2), TOKENS, row(2))
    return directory.load.errors > 0


_WRITER = """
import sys
from pathlib import Path
from tests.unit.engine.test_prefix_files import PrefixDirectory, digest, row
directory = PrefixDirectory(Path(sys.argv[1]), 2**30, lambda: "m")
print("ready", flush=True)
for number in range(10**6):
    directory.write(digest(number), 32, row(number, dims=512))
    while digest(number) not in directory and number % 7:
        directory.write(digest(number), 32, row(number, dims=512))
"""


def test_an_engine_killed_while_it_writes_leaves_only_whole_files(store: Store) -> None:
    for delay_s in (0.1, 0.2):
        command = [sys.executable, "-c", _WRITER, str(store.root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            before = len(store.files())
            eventually(lambda before=before: len(store.files()) > before)
            time.sleep(delay_s)
            os.kill(process.pid, signal.SIGKILL)
    directory = store.open()
    found = {path.name.split("-")[0] for path in store.files()}
    numbers = [number for number in range(1000) if digest(number).hex() in found]
    assert len(numbers) == len(found) > 0
    eventually(lambda: all(digest(number) in directory for number in numbers))
    for number in numbers:
        assert_equal(read(directory, number), row(number, dims=512))
    assert directory.load.corrupt == 0


def test_what_a_killed_engine_left_half_written_is_deleted_later(store: Store) -> None:
    directory = store.open(limit_bytes=2 * 10**4)
    for name in (".young.1.partial", ".old.2.partial"):
        (store.root / "m" / name).write_bytes(b"half")
    os.utime(store.root / "m" / ".old.2.partial", (1, 1))
    write(directory, 1)
    left = [path.name for path in (store.root / "m").iterdir() if "partial" in path.name]
    assert left == [".young.1.partial"]


def test_models_are_told_apart_by_content_and_facts(tmp_path: Path) -> None:
    model, memory = tmp_path / "model", tmp_path / "memory"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    facts = {"dtype": "float32"}
    name = identity(model, facts, memory)
    assert identity(model, facts, memory) == name
    assert identity(model, {"dtype": "bfloat16"}, memory) != name
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert identity(copy, facts, memory) == name
    stats = (model / "model.safetensors").stat()
    (model / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(model / "model.safetensors", ns=(stats.st_atime_ns, stats.st_mtime_ns))
    assert identity(model, facts, memory) != name
    (model / "config.json").write_text('{"rope_theta": 1}')
    assert len({identity(model, facts, memory), identity(copy, facts, memory)}) == 2


def _path(store: Store, number: int) -> Path:
    (found,) = store.root.glob(f"*/{digest(number).hex()}-*.prefix")
    return found


def _exists(store: Store, number: int) -> bool:
    return any(store.root.glob(f"*/{digest(number).hex()}-*.prefix"))


def _age(store: Store, seconds: float) -> None:
    for path in store.files():
        old_s = path.stat().st_mtime - seconds
        os.utime(path, (old_s, old_s))

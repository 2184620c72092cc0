"""The Makefile explains itself, and CI begins with what the README tells a new user to run."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MAKEFILE = (ROOT / "Makefile").read_text()


def _targets() -> dict[str, str]:
    """Target name to its help text; empty where it has none."""
    rules = re.findall(r"^([a-z][a-z-]*):(?!=)(?!\s*export\b)(.*)$", MAKEFILE, re.MULTILINE)
    return {name: rest.partition("## ")[2].strip() for name, rest in rules}


def test_every_target_has_help():
    assert {name for name, text in _targets().items() if not text} == set()


def test_every_target_is_phony():
    phony = re.search(r"^\.PHONY:(.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == set(_targets())


def test_ci_and_guides_name_only_existing_targets():
    guides = [ROOT / ".ci" / "run", ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    text = "\n".join(path.read_text() for path in guides)
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE))
    assert {"setup", "check", "demo", "test", "test-rest", "test-all"} <= named
    assert named <= set(_targets())


def test_ci_runs_the_readmes_commands_before_it_installs_any_tool():
    readme, ci = ((ROOT / name).read_text() for name in ("README.md", ".ci/run"))
    block = re.search(r"```sh\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    promised = re.findall(r"^make ([a-z-]+)", block[1], re.MULTILINE)
    run = re.findall(r"^(make [a-z-]+|install \$\(tool_packages\))", ci, re.MULTILINE)
    assert list(dict.fromkeys(promised)) == ["demo", "test"]
    assert run[:3] == ["make demo", "make test", "install $(tool_packages)"]


def test_no_test_is_left_out_of_ci():
    """`make test` runs the tests that pytest runs unasked; `make test-rest` the others."""
    options = re.search(r'"-m",\s*"(not [a-z ]+)"', (ROOT / "pyproject.toml").read_text())
    assert options is not None
    left_out = set(options[1].removeprefix("not ").split(" and not "))
    rest = re.search(r"^REST := (.+)$", MAKEFILE, re.MULTILINE)
    assert rest is not None
    assert '-m "$(REST)"' in MAKEFILE
    assert set(rest[1].split(" or ")) == left_out

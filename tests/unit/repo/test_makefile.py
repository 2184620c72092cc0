"""The Makefile explains itself, and CI runs only targets that exist."""

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
    assert {"setup", "check", "demo", "test-all"} <= named
    assert named <= set(_targets())

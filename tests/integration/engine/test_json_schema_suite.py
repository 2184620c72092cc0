"""The schemas of the JSON Schema Test Suite that llguidance accepts: what ends validates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_engine.scheduling.request import GrammarKind
from mlxmesh_shared.errors import InvalidArgument
from tests.fakes.constrained_rig import ConstrainedRig, constrained
from tests.fakes.random_languages import BATCH, check
from tests.fakes.random_schemas import language
from tests.fakes.tools import TOOLS

SUITE = TOOLS.parent / "json-schema-suite"
LEAST_ACCEPTED = 150
"""Of some 370; the others have keywords that cannot be enforced."""


def suite_schemas() -> list[Any]:
    files = sorted((SUITE / "draft2020-12").glob("*.json"))
    if not files:
        pytest.fail(f"{SUITE} is missing: run `make tools`")
    return [group["schema"] for path in files for group in _groups(path)]


def _groups(path: Path) -> list[Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _is_accepted(rig: ConstrainedRig, schema: Any) -> bool:
    try:
        rig.compiled(constrained(0, GrammarKind.JSON_SCHEMA, json.dumps(schema)))
    except InvalidArgument:
        return False
    return True


@pytest.mark.tools
@pytest.mark.timeout(600)
def test_what_ends_validates(text_rig: ConstrainedRig) -> None:
    accepted = [schema for schema in suite_schemas() if _is_accepted(text_rig, schema)]
    for start in range(0, len(accepted), BATCH):
        check(text_rig, [language(each) for each in accepted[start : start + BATCH]])
    assert len(accepted) >= LEAST_ACCEPTED

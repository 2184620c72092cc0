"""docs/operations.md explains every reason of an error."""

import re
from pathlib import Path

import pytest

from mlxmesh_shared import errors
from mlxmesh_shared.errors import error_classes

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
REASONS = sorted({cls.reason for cls in error_classes() if cls.__module__ == errors.__name__})


def explained() -> set[str]:
    """The words in code of the section about errors."""
    _, _, section = OPERATIONS.read_text(encoding="utf-8").partition("\n## Errors\n")
    return {word for code in re.findall(r"`([^`]+)`", section) for word in code.split()}


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_explained(reason: str) -> None:
    assert reason in explained()

"""Writes the results of canitoolcall into docs/tool_calls.md."""

from pathlib import Path

from tests.conformance.tool_calls import documented

_DOCS = Path(__file__).parents[2] / "docs/tool_calls.md"

if __name__ == "__main__":
    _DOCS.write_text(documented(_DOCS.read_text()))

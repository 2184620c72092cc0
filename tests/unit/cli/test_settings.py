"""`mlxmesh config show`."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from mlxmesh_cli.commands.app import app


def test_values_are_shown_as_one_would_write_them(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["config", "show", "--json", "--data-dir", str(tmp_path)])
    values = {(row["section"], row["name"]): row["value"] for row in json.loads(result.stdout)}
    assert values["mesh", "tls_dir"] == ""
    assert values["mesh", "reflection"] == "true"
    assert values["gateway", "telemetry_sinks"] == "prometheus"
    assert values["gateway", "http_hosts"] == ""
    assert values["gateway", "max_deadline_s"] == "3600.0"

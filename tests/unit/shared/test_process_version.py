"""A process reports the version that it runs."""

from __future__ import annotations

import pytest

from mlxmesh.control.v1.process_pb2 import GetProcessRequest
from mlxmesh_shared.process import process_servicer
from mlxmesh_shared.telemetry.log_ring import LogRing


async def test_a_version_that_was_installed_later_is_not_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_servicer, "version", lambda _name: "1.0")
    servicer = process_servicer.ProcessServicer(log=LogRing(), settings=list, data_dir=None)
    monkeypatch.setattr(process_servicer, "version", lambda _name: "2.0")
    assert (await servicer.GetProcess(GetProcessRequest(), None)).version == "1.0"

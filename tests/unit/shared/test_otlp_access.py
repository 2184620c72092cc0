"""Who may tell a gateway telemetry: the mesh's own processes."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_gateway.otlp.messages import SERVICES
from mlxmesh_shared.tls.method_access import declared_rules

PROCESSES = {
    *("gateway", "generation", "model", "access", "jobs", "worker", "tools", "runtime", "engine")
}


@pytest.mark.parametrize("name", [service.name for service in SERVICES.values()])
def test_every_process_exports_to_a_gateway_and_nobody_else(name: str) -> None:
    service = descriptor_pool.Default().FindServiceByName(name)
    ((path, rules),) = declared_rules(service)
    assert path == f"/{name}/Export"
    roles = {Role.Name(role).removeprefix("ROLE_").lower() for role in rules.gateway_roles}
    assert roles == PROCESSES
    assert not rules.allowed_roles

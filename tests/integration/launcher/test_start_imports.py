"""A service that has started has imported nothing that only some later call needs.

Each service is started by its own command line with `-X importtime`, which lists every module on
stderr, until it has registered.
"""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from mlxmesh_shared.process.startup import child_environment
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.settings import MeshSettings

# By what they are for: only some calls, other processes, or a first start need them.
SLOW = frozenset(
    {
        *("alembic", "sqlalchemy", "asyncpg"),  # an upgrade of the tables, PostgreSQL
        *("httpx2", "huggingface_hub", "numpy", "safetensors"),  # pulls, GGUF files
        *("jinja2", "transformers"),  # chat templates, unusual tokenizers
        *("mlx", "mlx_lm"),  # engines
        *("aiohttp", "consul", "cryptography"),  # Consul, certificates
        *("argon2", "jwt"),  # passwords, access tokens
        *("mcp", "mcp_types", "sse_starlette"),  # the mesh as an MCP server
        *("prompt_toolkit", "rich", "typer"),  # the command
    }
)


async def started(service: str, data_dir: Path) -> set[str]:
    """The top-level packages that a service has imported once it has registered."""
    registry = open_registry(MeshSettings(data_dir=data_dir))
    log = data_dir / f"{service}.imports"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "importtime", "-m", f"mlxmesh_{service}"),
            *("--data-dir", str(data_dir)),
            *(("--listen", "127.0.0.1:0", "--http-listen", "") if service == "gateway" else ()),
            *(("--no-spare-engine",) if service == "runtime" else ()),
            stdin=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=child_environment(),
        )
    try:
        async with asyncio.timeout(60):
            async for instances in registry.watch(service):
                if any(instance.pid == process.pid for instance in instances):
                    break
    finally:
        process.terminate()
        await process.wait()
        await registry.close()
    lines = re.findall(r"^import time: .*\| +(\w+)", log.read_text(), re.MULTILINE)
    return set(lines)


@pytest.mark.parametrize("service", ["gateway", "generation", "runtime"])
async def test_a_start_imports_nothing_slow(service: str, tmp_path: Path) -> None:
    imported = await started(service, tmp_path)
    assert f"mlxmesh_{service}" in imported
    assert imported & SLOW == set()


async def test_a_worker_imports_what_its_connectors_need(tmp_path: Path) -> None:
    """It tells the jobs service from the first moment on which connectors it has."""
    imported = await started("worker", tmp_path)
    assert "mlxmesh_worker" in imported
    assert imported & SLOW == {"aiohttp"}


@pytest.mark.parametrize("service", ["access", "jobs", "model"])
async def test_only_the_first_start_of_a_service_with_a_database_upgrades(
    service: str, tmp_path: Path
) -> None:
    assert {"alembic", "sqlalchemy"} <= await started(service, tmp_path)
    again = await started(service, tmp_path)
    assert "aiosqlite" in again
    assert again & SLOW == set()


async def test_the_launcher_forks_services_before_it_imports_its_own_parts() -> None:
    """Whatever is imported by then delays every service, and is in the memory of each."""
    code = (
        "import sys; from mlxmesh_launcher.forked import NEEDED_BY_ALL;"
        "[__import__(name) for name in NEEDED_BY_ALL]; print(*sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    imported = set(printed.decode().split())
    assert "mlxmesh_shared.process.service_host" in imported
    assert imported & {"mlxmesh_client", "mlxmesh_launcher.mesh"} == set()
    assert {name.partition(".")[0] for name in imported} & SLOW == set()

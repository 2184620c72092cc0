"""What only a real Consul agent can show: its restart, its checks, and its access control."""

import asyncio
import os
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from mlxmesh.engine.v1 import engine_pb2
from mlxmesh_launcher.service_settings import SERVICES
from mlxmesh_shared.config_store.consul import ConsulConfigStore
from mlxmesh_shared.errors import RegistryUnavailable
from mlxmesh_shared.process.service_host import following_settings
from mlxmesh_shared.registry.consul import ConsulRegistry
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import (
    ConsulSettings,
    GatewaySettings,
    LiveSettings,
    load_settings,
    section_values,
)
from mlxmesh_shared.tls import ServerTls
from tests.fakes.certificates import issue_all, source
from tests.fakes.consul_process import DENY, ROOT_TOKEN, ConsulAgentProcess
from tests.fakes.health import healthy
from tests.fakes.ports import free_port

pytestmark = pytest.mark.tools

RECIPE = Path(__file__).resolve().parents[3] / "deploy" / "consul"
ENGINE = engine_pb2.DESCRIPTOR.services_by_name["EngineService"].full_name
PATIENCE_S = 60


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[ConsulAgentProcess]:
    agent = ConsulAgentProcess(tmp_path)
    await agent.start()
    yield agent
    await agent.stop()


def settings(agent: ConsulAgentProcess, token: str = "") -> ConsulSettings:
    return ConsulSettings.model_validate(
        {"address": agent.address, "check_interval_s": 1, "token": token}
    )


async def put_key(agent: ConsulAgentProcess, key: str, value: str, token: str = "") -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.put(
            f"http://{agent.address}/v1/kv/{key}", data=value, headers={"X-Consul-Token": token}
        ) as answer,
    ):
        return answer.status


async def until_found(registry: ConsulRegistry, *names: str, service: str = "engine") -> None:
    async with asyncio.timeout(PATIENCE_S):
        while tuple(one.instance_id for one in await registry.resolve(service)) != names:
            await asyncio.sleep(0.05)


async def test_a_restarted_agent_is_told_again(agent: ConsulAgentProcess) -> None:
    owner, reader = ConsulRegistry(settings(agent)), ConsulRegistry(settings(agent))
    async with healthy("127.0.0.1:0") as address:
        await owner.register(Instance("engine", "a", address, 1))
        await agent.restart()
        # This reader never knew it: whom it finds was registered after the restart.
        await until_found(reader, "a")
    await until_found(reader)
    await owner.close()
    await reader.close()


async def test_settings_follow_the_keys(agent: ConsulAgentProcess) -> None:
    flags = ["--registry", "consul", "--consul-address", agent.address]
    live = LiveSettings(lambda stored: load_settings(GatewaySettings, flags, env={}, stored=stored))
    async with following_settings(live, "gateway"):
        for wanted in (7, 8):
            await put_key(agent, "mlxmesh/config/gateway/max_deadline_s", str(wanted))
            async with asyncio.timeout(PATIENCE_S):
                while live.current.max_deadline_s != wanted:
                    await asyncio.sleep(0.02)


async def make_tokens(agent: ConsulAgentProcess, folder: Path) -> dict[str, str]:
    """Name to token, by the recipe that operators are given."""
    tools = folder / "bin"
    tools.mkdir()
    (tools / "consul").symlink_to(os.environ["CONSUL_BIN"])
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "CONSUL_HTTP_ADDR": agent.address,
        "CONSUL_HTTP_TOKEN": ROOT_TOKEN,
    }
    process = await asyncio.create_subprocess_exec(
        RECIPE / "make-tokens", folder / "tokens", env=environment
    )
    assert await process.wait() == 0
    return {
        path.stem: path.read_text().strip().removeprefix("MLXMESH_CONSUL_TOKEN=")
        for path in (folder / "tokens").iterdir()
    }


async def test_the_policies_allow_what_each_service_does_and_no_more(tmp_path: Path) -> None:
    agent = ConsulAgentProcess(tmp_path, DENY)
    await agent.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(agent.stop)
        tokens = await make_tokens(agent, tmp_path)
        assert set(tokens) == {*SERVICES, "operator"}
        address = await stack.enter_async_context(healthy("127.0.0.1:0"))
        registries = {
            name: ConsulRegistry(settings(agent, token)) for name, token in tokens.items()
        }
        for registry in registries.values():
            stack.push_async_callback(registry.close)

        key = "mlxmesh/config/mesh/log_level"
        assert await put_key(agent, key, "error", tokens["operator"]) == 200
        for service in SERVICES:
            registry = registries[service]
            await registry.register(Instance(service, "own", address, 1))
            await registry.register(Instance("engine", service, address, 1))
            assert await put_key(agent, key, "debug", tokens[service]) == 403
            store = ConsulConfigStore(settings(agent, tokens[service]))
            stack.push_async_callback(store.close)
            stored = section_values(await store.read(), service)
            assert stored == {"log_level": "error"}

        reader = registries["operator"]
        await until_found(reader, "runtime")
        for service in SERVICES:
            await until_found(reader, "own", service=service)
        nobody = ConsulRegistry(settings(agent))
        stack.push_async_callback(nobody.close)
        assert await nobody.resolve("gateway") == ()


async def test_the_agent_checks_an_instance_that_serves_with_tls(tmp_path: Path) -> None:
    """By the role's name, and with a certificate that proves no role."""
    tls_dir = tmp_path / "tls"
    issue_all(tls_dir).issue("consul")
    agent = ConsulAgentProcess(
        tmp_path,
        f"""enable_agent_tls_for_checks = true
        tls {{ defaults {{
          ca_file = "{tls_dir / "ca.crt"}"
          cert_file = "{tls_dir / "consul.crt"}"
          key_file = "{tls_dir / "consul.key"}"
        }} }}""",
    )
    await agent.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(agent.stop)
        certificates = source(tls_dir, "engine")
        server = MeshServer(services=(), service_names=[ENGINE], tls=ServerTls(certificates))
        address = await server.start()
        stack.push_async_callback(server.drain, grace_s=0, settle_s=0)
        await server.set_serving()
        registry = ConsulRegistry(settings(agent), certificates=certificates)
        stack.push_async_callback(registry.close)
        await registry.register(Instance("engine", "a", address, 1))

        await until_checked(agent, "passing", "success")
        await server.set_not_serving()
        await until_checked(agent, "critical", "")


async def until_checked(agent: ConsulAgentProcess, status: str, output: str) -> None:
    """Until the agent's only check says so, and not because nobody has run it yet."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_S):
        while True:
            async with session.get(f"http://{agent.address}/v1/agent/checks") as answer:
                [check] = (await answer.json()).values()
            if check["Status"] == status and output in check["Output"]:
                return
            await asyncio.sleep(0.1)


async def make_certificates(folder: Path) -> None:
    """A CA, a certificate for the agent and one for its clients."""
    for words in ("ca create", "cert create -server -dc dc1", "cert create -cli -dc dc1"):
        process = await asyncio.create_subprocess_exec(
            os.environ["CONSUL_BIN"], "tls", *words.split(), cwd=folder, stdout=DEVNULL
        )
        assert await process.wait() == 0


async def test_an_agent_that_wants_certificates(tmp_path: Path) -> None:
    await make_certificates(tmp_path)
    port, ca = free_port(), tmp_path / "consul-agent-ca.pem"
    server, client = tmp_path / "dc1-server-consul-0", tmp_path / "dc1-cli-consul-0"
    agent = ConsulAgentProcess(
        tmp_path,
        f"""ports {{ https = {port} }}
        tls {{ defaults {{
          ca_file = "{ca}"
          cert_file = "{server}.pem"
          key_file = "{server}-key.pem"
          verify_incoming = true
        }} }}""",
    )
    await agent.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(agent.stop)
        given = {"address": f"127.0.0.1:{port}", "ca": ca}
        shown = {"cert": f"{client}.pem", "key": f"{client}-key.pem"}
        known = ConsulRegistry(ConsulSettings.model_validate(given | shown))
        stack.push_async_callback(known.close)
        stranger = ConsulRegistry(ConsulSettings.model_validate(given))
        stack.push_async_callback(stranger.close)

        assert await known.resolve("engine") == ()
        with pytest.raises(RegistryUnavailable, match="cannot be reached"):
            await stranger.resolve("engine")

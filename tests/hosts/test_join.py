"""The quick start for a second host, by its three commands; then what else may happen to it."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_launcher.authority import write_self_signed
from mlxmesh_launcher.hosts.join_token import parse_token
from tests.fakes.lora_adapters import random_layers, write_mlx_lm
from tests.hosts.joined_hosts import CHECKS, STREAMS, TOKENS, JoinedHosts, JoinHost
from tests.hosts.network import Host, Network
from tests.hosts.setup import until

pytestmark = [pytest.mark.tools, pytest.mark.timeout(600)]


@contextlib.contextmanager
def somebody_in_between(host: Host, port: int, folder: Path) -> Generator[None]:
    """A server on the host that speaks TLS, but with a certificate of its own."""
    write_self_signed(folder / "other", "join.mlxmesh")
    pair = (folder / "other.crt", folder / "other.key")
    log = folder / "other.log"
    process = host.start(sys.executable, "-c", OTHER_SERVER, str(port), *pair, log=log)
    try:
        until(lambda: log.read_text().startswith("listening"))
        yield
        # It writes what it got once the other side has left, which may tell its user before.
        until(lambda: "sent: " in log.read_text())
    finally:
        process.terminate()
        process.wait(30)


OTHER_SERVER = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
context.set_alpn_protocols(["h2"])
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as listener:
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as secured:
            print("sent:", secured.recv(4096), flush=True)
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JoinedHosts]:
    """The three commands of the quick start, literally."""
    with Network("a", "b") as network:
        mesh = JoinedHosts(network, tmp_path_factory.mktemp("join"))
        mesh.a.run("mlxmesh up --hosts --detach")
        mesh.command_for_b = mesh.a.run("mlxmesh hosts invite").splitlines()[-1]

        # Nobody joins another host than the one that the token names, and the token stays valid.
        with somebody_in_between(network["b"], 50052, mesh.folder):
            refusal = mesh.b.refused(f"mlxmesh up --join 127.0.0.1:50052 --token {mesh.token}")
        assert "not the one that the token names" in refusal
        sent = (mesh.folder / "other.log").read_text()
        assert "sent: b''" in sent, sent
        assert not (mesh.b.data_dir / "tls").exists()

        mesh.b.run(mesh.command_for_b + " --detach")
        yield mesh


def test_host_b_serves_by_engines_of_host_a(mesh: JoinedHosts, tmp_path: Path) -> None:
    assert mesh.b.run("mlxmesh generate Hi --model pocket --max-tokens 5").strip()
    outcomes = mesh.b.streams(tmp_path / "b")
    assert {outcome["engine"] for outcome in outcomes} <= set(mesh.engines_of("a"))
    assert {len(outcome["tokens"]) for outcome in outcomes} == {TOKENS}


def test_an_adapter_travels_to_host_b(mesh: JoinedHosts, tmp_path: Path) -> None:
    shapes = {f"model.layers.{layer}.self_attn.q_proj": (160, 160) for layer in range(4)}
    layers = random_layers(shapes, rank=4, seed=1, size=0.5)
    source = write_mlx_lm(mesh.a.folder / "french", layers, scale=2.0, config={"num_layers": 4})
    added = json.loads(mesh.a.run(f"mlxmesh adapters add french {source} --model pocket --json"))

    def tokens(model: str, engines: str) -> list[int]:
        """The same of all streams, from engines of one host."""
        outcomes = mesh.a.streams(tmp_path / f"{model}-{engines}", model)
        assert {outcome["engine"] for outcome in outcomes} <= set(mesh.engines_of(engines))
        [same] = {tuple(outcome["tokens"]) for outcome in outcomes}
        return list(same)

    plain, adapted = tokens("pocket", "a"), tokens("pocket:french", "a")
    assert adapted != plain
    fetched = mesh.b.data_dir / "fetched"
    assert not fetched.exists()
    mesh.drain_runtime_of_a()
    assert tokens("pocket:french", "b") == adapted
    assert (fetched / added["digest"] / "adapters.safetensors").is_file()


def test_engines_of_host_b_serve_callers_of_host_a(mesh: JoinedHosts, tmp_path: Path) -> None:
    mesh.load_on_both()
    outcomes: list[dict[str, Any]] = []

    def both_used() -> bool:
        """Generation finds a new engine a moment after it is listed."""
        outcomes.extend(mesh.a.streams(tmp_path / f"a-{len(outcomes)}"))
        used = {outcome["engine"] for outcome in outcomes}
        return all(used & set(mesh.engines_of(name)) for name in "ab")

    until(both_used)
    fetched = [path for path in mesh.b.data_dir.glob("fetched/*") if path.name != "_store"]
    of_models = [path for path in fetched if not (path / "adapters.safetensors").exists()]
    assert [(path / "model.safetensors").is_file() for path in of_models] == [True]
    assert len({tuple(outcome["tokens"]) for outcome in outcomes}) == 1


def test_the_agents_reach_every_process_the_launchers_too(mesh: JoinedHosts) -> None:
    def all_pass() -> bool:
        for host in (mesh.a, mesh.b):
            found = host.agent_checks()
            names = {name for name, _ in found}
            if not {"mlxmesh-launcher", "mlxmesh-runtime"} <= names:
                return False
            if not all("success" in output for _, output in found):
                return False
        return True

    until(all_pass)


def test_nobody_uses_an_agent_without_a_certificate_of_the_mesh(mesh: JoinedHosts) -> None:
    without = CHECKS.replace("context.load_cert_chain", "(lambda *_: None)")
    done = mesh.b.host.run(sys.executable, "-c", without, mesh.b.data_dir / "tls")
    assert (done.returncode, done.stdout) == (1, ""), done.stdout


def test_a_token_is_valid_once_and_stored_nowhere(mesh: JoinedHosts) -> None:
    [invitation] = json.loads(mesh.a.run("mlxmesh hosts invitations --json"))["invitations"]
    assert invitation["state"] == "used"
    assert invitation["used_by"] == "b"
    # Another invitation opens the port again, so that it is the token that is refused.
    other = mesh.a.run("mlxmesh hosts invite").splitlines()[-1].rpartition(" ")[2]
    third = JoinHost(mesh.b.host, mesh.folder / "third")
    where = f"{mesh.a.host.address}:50052"
    # That host's ports are taken by its own agent, which comes first.
    agent = "--consul-address 127.0.0.1:8501"
    refusal = third.refused(f"mlxmesh up --join {where} --token {mesh.token} {agent}")
    assert "host b used this token already" in refusal
    revoked = parse_token(other).invitation_id
    mesh.a.run(f"mlxmesh hosts revoke {revoked}")
    refusal = third.refused(f"mlxmesh up --join {where} --token {other} {agent}")
    assert "revoked" in refusal or "refuses connections" in refusal
    for host in (mesh.a, mesh.b):
        kept = "".join(
            path.read_text(errors="replace")
            for path in host.data_dir.rglob("*")
            if path.is_file() and path.suffix in (".log", ".json", ".toml", ".lock")
        )
        for token in (mesh.token, other):
            assert token not in kept
            assert parse_token(token).secret.hex() not in kept


def test_host_b_has_its_own_keys_only(mesh: JoinedHosts) -> None:
    names = {path.name for path in (mesh.b.data_dir / "tls").iterdir()}
    assert "ca.key" not in names
    assert {"model.key", "access.key", "jobs.key", "tools.key"} & names == set()
    for name in ("runtime.key", "gateway.key"):
        keys = [(host.data_dir / "tls" / name).read_bytes() for host in (mesh.a, mesh.b)]
        assert keys[0] != keys[1]
        assert (mesh.b.data_dir / "tls" / name).stat().st_mode & 0o777 == 0o600


def test_host_b_goes_on_while_host_a_is_cut_off_and_is_back(
    mesh: JoinedHosts, tmp_path: Path
) -> None:
    mesh.load_on_both()
    mesh.network.split("a", "b")
    until(lambda: mesh.a.sees("b") == "away")
    outcomes = mesh.b.streams(tmp_path / "cut")
    assert [outcome.get("reason") for outcome in outcomes] == [None] * STREAMS
    assert {len(outcome["tokens"]) for outcome in outcomes} == {TOKENS}
    mesh.network.heal()
    until(mesh.b_serves)
    assert {outcome.get("reason") for outcome in mesh.a.streams(tmp_path / "healed")} == {None}


def test_host_b_comes_back_without_a_token_and_is_removed_once_it_has_stopped(
    mesh: JoinedHosts,
) -> None:
    mesh.b.run("mlxmesh down")
    until(lambda: mesh.a.sees("b") == "away")
    mesh.b.run("mlxmesh up --detach")
    # Its engine may have a successor on host a by now.
    until(mesh.b_serves)
    assert "still runs" in mesh.a.refused("mlxmesh hosts remove b --yes")
    mesh.b.run("mlxmesh down")
    begun_s = time.monotonic()
    until(lambda: mesh.a.sees("b") == "away")
    mesh.a.run("mlxmesh hosts remove b --yes")
    assert set(mesh.a.hosts()) == {"a"}
    print(f"host b was away {time.monotonic() - begun_s:.1f} s after it had stopped")

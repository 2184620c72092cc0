"""`mlxmesh profiles`, against the real service and a real catalogue."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from mlxmesh.model.v1.profile_pb2_grpc import add_ProfileServiceServicer_to_server
from mlxmesh_cli.commands.app import app
from mlxmesh_cli.commands.completion import complete_profile
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.profiles.servicer import ProfileServicer
from mlxmesh_model.profiles.store import Profiles
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.sql.urls import SqliteFile
from tests.command_line import mlxmesh


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the service, which runs on a thread."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path / "no mesh"))
    for name in ("MLXMESH_API_KEY", "MLXMESH_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    found, loop = list[str](), asyncio.new_event_loop()
    stop, ready = asyncio.Event(), threading.Event()

    async def serve() -> None:
        store = await Store.open(SqliteFile(tmp_path / "model.db"))
        servicer = ProfileServicer(Profiles(store.transactions))
        server = MeshServer(
            services=[(add_ProfileServiceServicer_to_server, servicer)],
            service_names=["mlxmesh.model.v1.ProfileService"],
        )
        found.append(await server.start())
        await server.set_serving()
        ready.set()
        await stop.wait()
        await server.drain(grace_s=0, settle_s=0)
        await store.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def run(address: str, *arguments: str) -> Result:
    return mlxmesh("profiles", *arguments, "--address", address)


ALL = {
    "--dtype": "float32",
    "--context": "64",
    "--kv-cache-bytes": "1048576",
    "--kv-cache-type": "full",
    "--prefix-cache-bytes": "0",
    "--prefix-disk-bytes": "1073741824",
    "--max-running": "2",
    "--max-waiting": "0",
    "--prefill-tokens-per-step": "128",
    "--forward": "mlx",
    "--tool-format": "json",
    "--reasoning-format": "think",
    "--speculative": "off",
    "--max-adapters": "8",
    "--adapter-bytes": "1048576",
    "--group-size": "2",
    "--group-split": "pipeline",
}


def test_every_setting_is_stored_and_shown(address: str, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0].content }}ß")
    options = [word for option in ALL.items() for word in option]
    done = run(address, "set", "small", *options, "--template", str(template))
    assert (
        done.output == "small@1 is stored; load a model with `mlxmesh load NAME --profile small`\n"
    )
    shown = json.loads(run(address, "show", "small", "--json").output)
    assert shown["settings"] == {
        "dtype": "float32",
        "context_tokens": 64,
        "kv_cache_bytes": "1048576",
        "kv_cache_type": "full",
        "prefix_cache_bytes": "0",
        "prefix_disk_bytes": "1073741824",
        "max_running": 2,
        "max_waiting": 0,
        "prefill_tokens_per_step": 128,
        "forward": "mlx",
        "tool_format": "json",
        "reasoning_format": "think",
        "chat_template": "{{ messages[0].content }}ß",
        "speculative": "off",
        "max_adapters": 8,
        "adapter_bytes": "1048576",
        "group_size": 2,
        "group_split": "pipeline",
    }
    text = run(address, "show", "small@1").output
    assert "small@1\n" in text
    assert "context_tokens           64\n" in text
    assert text.endswith("chat template:\n{{ messages[0].content }}ß\n")


def test_a_change_is_a_revision_that_sets_nothing_else(address: str) -> None:
    run(address, "set", "small", "--context", "64")
    run(address, "set", "small", "--max-running", "2")
    listed = run(address, "list").output
    assert "small@2" in listed
    assert "max_running=2" in listed
    assert "context" not in listed
    assert "context_tokens           64" in run(address, "show", "small@1").output


def test_nothing_is_listed_and_everything_can_be_deleted(address: str) -> None:
    assert "mlxmesh profiles set" in run(address, "list").output
    run(address, "set", "small")
    assert "no settings: the defaults" in run(address, "show", "small").output
    assert run(address, "delete", "small").output == "profile small is deleted\n"
    again = run(address, "delete", "small", "--json")
    assert again.exit_code == 1
    assert "there is no profile small" in again.output
    assert json.loads(run(address, "list", "--json").output) == {"profiles": []}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"x" * 1_100_000, "is too large"),
        (b"{% if %}", "line 1"),
        (None, "cannot be read"),
    ],
)
def test_a_template_that_cannot_be_used(
    address: str, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "chat.jinja"
    if content is not None:
        file.write_bytes(content)
    done = run(address, "set", "small", "--template", str(file))
    assert done.exit_code == 1
    assert problem in done.output
    assert "Traceback" not in done.output


def test_a_value_that_is_refused_is_named(address: str) -> None:
    done = run(address, "set", "small", "--dtype", "int8")
    assert done.exit_code == 1
    assert "settings.dtype" in done.output
    assert run(address, "set", "small", "--context", "0").exit_code == 2


def test_names_are_completed(address: str) -> None:
    import typer

    for name in ("small", "smaller", "large"):
        run(address, "set", name)
    context = typer.Context(typer.main.get_command(app))
    context.params = {"address": address, "data_dir": None}
    assert complete_profile(context, "sm") == ["small", "smaller"]

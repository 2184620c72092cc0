import sys
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import SecretStr

from mlxmesh_runtime.engine_command import EngineCommand, RankPlace
from mlxmesh_runtime.engine_record import EngineOptions, EngineSpec
from mlxmesh_shared.settings import (
    ConsulSettings,
    EngineSettings,
    MeshSettings,
    RuntimeSettings,
    load_settings,
)

SPEC = EngineSpec(
    engine_id="e1",
    model="pocket",
    model_version=3,
    model_dir=Path("/models/with space"),
    options=EngineOptions(max_running=8, max_waiting=0, context_tokens=128),
)


def test_the_engine_understands_its_flags(tmp_path: Path) -> None:
    mesh = MeshSettings(data_dir=tmp_path, log_level="debug", log_format="json")
    command = EngineCommand(mesh=mesh)
    interpreter, dash_m, module, *flags = command.line(SPEC)
    assert (interpreter, dash_m, module) == (sys.executable, "-m", "mlxmesh_engine")
    settings = load_settings(EngineSettings, flags, env={})
    assert settings.engine_id == "e1"
    assert (settings.model, settings.model_version) == ("pocket", 3)
    assert settings.model_dir == Path("/models/with space")
    assert (settings.max_running, settings.max_waiting, settings.context_tokens) == (8, 0, 128)
    assert settings.data_dir == tmp_path
    assert (settings.log_level, settings.log_format) == ("debug", "json")


def test_the_engine_gets_the_runtimes_settings_of_the_mesh(tmp_path: Path) -> None:
    told = {"data_dir": tmp_path, "tls_dir": tmp_path / "tls", "reflection": False}
    told |= {"registry": "consul", "telemetry": True}
    consul = ConsulSettings(address="127.0.0.1:1234", check_tls=True, token=SecretStr("secret"))
    runtime = RuntimeSettings(**told, listen="127.0.0.1:7", consul=consul)
    _, _, _, *flags = EngineCommand(mesh=runtime).line(SPEC)
    env = {"MLXMESH_TELEMETRY": "off"}
    settings = load_settings(EngineSettings, flags, env=env)
    assert {name: getattr(settings, name) for name in told} == told
    assert settings.consul == ConsulSettings(address="127.0.0.1:1234", check_tls=True)
    assert "secret" not in flags
    assert settings.listen != runtime.listen


def test_the_engine_understands_every_option(tmp_path: Path) -> None:
    options = EngineOptions(
        max_running=2,
        max_waiting=0,
        prefill_tokens_per_step=64,
        context_tokens=32,
        dtype="float32",
        kv_cache_bytes=2**20,
        kv_cache_type="4bit",
        prefix_cache_bytes=0,
        prefix_disk_bytes=2**30,
        forward="mlx",
        kind="embedding",
        speculative="off",
        max_adapters=8,
        adapter_bytes=2**21,
        group_size=4,
        group_split="pipeline",
    )
    spec = replace(SPEC, options=options)
    _, _, _, *flags = EngineCommand(mesh=MeshSettings(data_dir=tmp_path)).line(spec)
    settings = load_settings(EngineSettings, flags, env={})
    assert {name: getattr(settings, name) for name in asdict(options)} == asdict(options)


def test_a_rank_knows_its_leader_and_a_group_keeps_no_prefixes_on_disk(tmp_path: Path) -> None:
    spec = replace(SPEC, options=EngineOptions(group_size=2))
    command = EngineCommand(mesh=MeshSettings(data_dir=tmp_path), prefix_disk_bytes=7)
    _, _, _, *flags = command.line(spec, place=RankPlace(1, "10.0.0.1:5000", 250_000))
    settings = load_settings(EngineSettings, flags, env={})
    assert (settings.group_size, settings.group_rank) == (2, 1)
    assert settings.group_leader == "10.0.0.1:5000"
    assert settings.group_share_ppm == 250_000
    assert settings.prefix_disk_bytes == 0


def test_an_option_precedes_the_runtimes_bytes_of_prefixes_on_disk(tmp_path: Path) -> None:
    mesh = MeshSettings(data_dir=tmp_path)

    def given(option: int | None, of_runtime: int) -> int:
        spec = replace(SPEC, options=EngineOptions(prefix_disk_bytes=option))
        _, _, _, *flags = EngineCommand(mesh=mesh, prefix_disk_bytes=of_runtime).line(spec)
        return load_settings(EngineSettings, flags, env={}).prefix_disk_bytes

    assert [given(None, 0), given(None, 7), given(0, 7), given(5, 7)] == [0, 7, 0, 5]


def test_unset_options_keep_the_engines_defaults(tmp_path: Path) -> None:
    line = EngineCommand(mesh=MeshSettings(data_dir=tmp_path), program=["engine"]).line(SPEC)
    assert line[0] == "engine"
    assert "--prefill-tokens-per-step" not in line


def test_the_engine_understands_the_flags_of_a_spare(tmp_path: Path) -> None:
    flags = EngineCommand(mesh=MeshSettings(data_dir=tmp_path)).spare_line()[3:]
    settings = load_settings(EngineSettings, flags, env={})
    assert (settings.spare, settings.data_dir) == (True, tmp_path)

"""Where each value comes from, and what happens to names that nobody knows."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from mlxmesh_shared.settings import (
    SETTINGS,
    EngineSettings,
    GatewaySettings,
    MeshSettings,
    ModelSettings,
    SettingsError,
    load_settings,
    sources,
)
from mlxmesh_shared.settings.names import setting_fields


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path


def config(data_dir: Path, text: str) -> dict[str, str]:
    (data_dir / "mlxmesh.toml").write_text(text)
    return {"MLXMESH_DATA_DIR": str(data_dir)}


def test_defaults() -> None:
    settings = load_settings(GatewaySettings, env={})

    assert settings.listen == "127.0.0.1:50051"
    assert settings.data_dir == Path.home() / ".mlxmesh"


def test_each_layer_covers_the_one_below(data_dir: Path) -> None:
    env = config(data_dir, '[gateway]\nlisten = "127.0.0.1:1"\n')
    with_env = {**env, "MLXMESH_GATEWAY_LISTEN": "127.0.0.1:2"}

    assert load_settings(GatewaySettings, env=env).listen == "127.0.0.1:1"
    assert load_settings(GatewaySettings, env=with_env).listen == "127.0.0.1:2"
    flags = ["--listen", "127.0.0.1:3"]
    assert load_settings(GatewaySettings, flags, env=with_env).listen == "127.0.0.1:3"


def test_the_mesh_table_and_variables_reach_every_section(data_dir: Path) -> None:
    env = config(data_dir, '[mesh]\nlog_level = "debug"\n')

    for cls in SETTINGS.values():
        assert load_settings(cls, env=env).log_level == "debug"
        assert load_settings(cls, env={**env, "MLXMESH_LOG_LEVEL": "error"}).log_level == "error"


def test_one_environment_serves_every_process() -> None:
    env = {"MLXMESH_GATEWAY_LISTEN": "127.0.0.1:4", "MLXMESH_MODEL_LISTEN": "127.0.0.1:5"}

    assert load_settings(GatewaySettings, env=env).listen == "127.0.0.1:4"
    assert load_settings(ModelSettings, env=env).listen == "127.0.0.1:5"
    assert load_settings(EngineSettings, env=env).listen == "127.0.0.1:0"


def test_flags_choose_the_file_too(data_dir: Path) -> None:
    config(data_dir, '[gateway]\nlisten = "127.0.0.1:1"\n')

    settings = load_settings(GatewaySettings, ["--data-dir", str(data_dir)], env={})

    assert settings.listen == "127.0.0.1:1"


def test_a_file_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("[gateway]\nmax_deadline_s = 7\n")

    assert load_settings(GatewaySettings, env={"MLXMESH_CONFIG": str(path)}).max_deadline_s == 7
    with pytest.raises(SettingsError, match="not a file"):
        load_settings(GatewaySettings, env={"MLXMESH_CONFIG": str(tmp_path / "none.toml")})


def test_switches() -> None:
    assert load_settings(GatewaySettings, ["--no-reflection"], env={}).reflection is False
    assert load_settings(GatewaySettings, ["--insecure-listen"], env={}).insecure_listen is True
    env = {"MLXMESH_REFLECTION": "false"}
    assert load_settings(GatewaySettings, env=env).reflection is False


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"MLXMESH_GATWAY_LISTEN": "x"}, "did you mean MLXMESH_GATEWAY_LISTEN"),
        ({"MLXMESH_CONSUL_ADRESS": "x"}, "did you mean MLXMESH_CONSUL_ADDRESS"),
        ({"MLXMESH_LOGLEVEL": "x"}, "did you mean MLXMESH_LOG_LEVEL"),
        ({"MLXMESH_QQQQQQQQQQQQQQQQ": "x"}, "unknown variable MLXMESH_QQQQQQQQQQQQQQQQ"),
        # A section's variable for what belongs to the whole mesh.
        ({"MLXMESH_GATEWAY_DATA_DIR": "x"}, "unknown variable MLXMESH_GATEWAY_DATA_DIR"),
    ],
)
def test_unknown_variables(env: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_settings(GatewaySettings, env=env)


def test_other_programs_variables_are_their_own() -> None:
    env = {"HOME": "/x", "MLX_METAL": "1", "MLXMESH_EXIT_WITH_PARENT": "1"}
    env |= {"MLXMESH_ADDRESS": "localhost:1", "MLXMESH_EXAMPLE_MODEL": "pocket"}
    env |= {"MLXMESH_API_KEY": "secret", "MLXMESH_INSECURE_KEY": "1"}

    assert load_settings(GatewaySettings, env=env) == load_settings(GatewaySettings, env={})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gateway]\nlisen = 1", "unknown setting lisen in .gateway.; did you mean listen"),
        ("[gatewy]\n", r"unknown table \[gatewy\]; did you mean gateway"),
        ('[gateway]\nlog_level = "info"', r"it belongs in \[mesh\]"),
        ('[consul]\nadress = "x"', r"unknown setting adress in .consul.; did you mean address"),
        ('[mesh]\nconsul_address = "x"', r"write it as address in \[consul\]"),
        ('[gateway]\nconsul_token = "x"', r"write it as token in \[consul\]"),
        ('[gateway.consul]\naddress = "x"', r"unknown setting consul .*it belongs in \[consul\]"),
        ('[consol]\naddress = "x"', r"unknown table \[consol\]; did you mean consul"),
        ('consul = "127.0.0.1:8500"', r"write \[consul\]"),
        ("gateway = 1", r"write \[gateway\]"),
        ("[gateway", "is not TOML"),
        # Another process's table must be right as well: the file is one.
        ("[model]\nlisen = 1", "did you mean listen"),
    ],
)
def test_bad_files(data_dir: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_settings(GatewaySettings, env=config(data_dir, text))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--lissten", "x"], "unknown flag --lissten; did you mean --listen"),
        (["--listen"], "--listen"),
        (["--consul-adress", "x"], "did you mean --consul-address"),
        (["--list", "x"], "unknown flag --list"),
        (["stray"], "unknown flag stray"),
    ],
)
def test_bad_flags(argv: list[str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_settings(GatewaySettings, argv, env={})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_deadline_s", "soon"),
        ("max_deadline_s", "0"),
        ("max_deadline_s", "inf"),
        ("max_deadline_s", "nan"),
        ("max_concurrent_rpcs", "-1"),
        ("log_level", "loud"),
    ],
)
def test_a_bad_value_names_the_setting_and_where_it_came_from(name: str, value: str) -> None:
    flag = "--" + name.replace("_", "-")

    with pytest.raises(SettingsError, match=f"flag {flag}: {name}: "):
        load_settings(GatewaySettings, [flag, value], env={})


def test_sources_tell_where_each_value_came_from(data_dir: Path) -> None:
    env = config(data_dir, "[gateway]\nmax_deadline_s = 7\n")
    env["MLXMESH_LOG_LEVEL"] = "debug"

    found = {s.name: s for s in sources(GatewaySettings, ["--listen", "127.0.0.1:4"], env=env)}

    assert found["max_deadline_s"].value == 7
    assert found["max_deadline_s"].source == f"file {data_dir / 'mlxmesh.toml'}"
    assert found["log_level"].source == "environment MLXMESH_LOG_LEVEL"
    assert found["listen"].source == "flag --listen"
    assert found["drain_grace_s"].source == "default"
    assert set(found) == set(setting_fields(GatewaySettings))


def test_each_layer_covers_the_one_below_in_a_shared_table_too(data_dir: Path) -> None:
    env = config(data_dir, '[consul]\naddress = "a:1"\nprefix = "p"\n')
    with_env = env | {"MLXMESH_CONSUL_ADDRESS": "a:2", "MLXMESH_CONSUL_TOKEN": "t"}

    consul = load_settings(GatewaySettings, ["--consul-ca", "/ca"], env=with_env).consul
    found = {
        s.name: s.source for s in sources(GatewaySettings, ["--consul-ca", "/ca"], env=with_env)
    }

    assert (consul.address, consul.prefix, consul.token.get_secret_value()) == ("a:2", "p", "t")
    assert consul.ca == Path("/ca")
    assert found["consul.address"] == "environment MLXMESH_CONSUL_ADDRESS"
    assert found["consul.prefix"] == f"file {data_dir / 'mlxmesh.toml'}"
    assert found["consul.ca"] == "flag --consul-ca"
    assert found["consul.datacenter"] == "default"


@pytest.mark.parametrize(
    ("flags", "store"),
    [
        ([], "none"),
        (["--registry", "consul"], "consul"),
        (["--registry", "consul", "--config-store", "none"], "none"),
        (["--config-store", "consul"], "consul"),
    ],
)
def test_the_configuration_store_is_a_choice_beside_the_registry(
    flags: list[str], store: str
) -> None:
    assert load_settings(GatewaySettings, flags, env={}).config_store == store


def test_an_unknown_configuration_store_is_refused() -> None:
    with pytest.raises(SettingsError, match="flag --config-store: config_store: "):
        load_settings(GatewaySettings, ["--config-store", "etcd"], env={})


def test_made_directly_only_arguments_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXMESH_GATEWAY_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("LISTEN", "127.0.0.1:2")

    assert GatewaySettings().listen == "127.0.0.1:50051"
    assert load_settings(GatewaySettings).listen == "127.0.0.1:2"


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        GatewaySettings().listen = "x"


@pytest.mark.parametrize("section", SETTINGS)
def test_help_explains_every_setting(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(SETTINGS[section], ["--help"], env={})

    shown = capsys.readouterr().out
    assert caught.value.code == 0
    for name, field in setting_fields(SETTINGS[section]).items():
        assert f"--{name.replace('.', '-').replace('_', '-')}" in shown
        assert field.description, f"{name} has no description"


def test_no_variable_means_two_settings() -> None:
    of_mesh = setting_fields(MeshSettings)
    names = {name.replace(".", "_") for name in of_mesh}
    assert len(names) == len(of_mesh)
    for section, cls in SETTINGS.items():
        own = {f"{section}_{name}" for name in setting_fields(cls).keys() - of_mesh.keys()}
        assert not own & names

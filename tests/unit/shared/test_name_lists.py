"""Settings that are lists of names."""

from pathlib import Path

import pytest

from mlxmesh_shared.settings import GenerationSettings, MeshSettings, SettingsError, load_settings


@pytest.mark.parametrize("text", ["pocket,other", " pocket , other,"])
def test_flags_and_variables_separate_names_by_commas(text: str) -> None:
    env = {"MLXMESH_GENERATION_LOG_CONTENT_MODELS": text}
    assert load_settings(GenerationSettings, [], env=env).log_content_models == ("pocket", "other")
    flags = ["--log-content-models", text]
    assert load_settings(GenerationSettings, flags, env={}).log_content_models == (
        "pocket",
        "other",
    )


def test_a_file_has_a_list(tmp_path: Path) -> None:
    (tmp_path / "mlxmesh.toml").write_text('[generation]\nlog_content_models = ["a", "b"]\n')
    settings = load_settings(GenerationSettings, ["--data-dir", str(tmp_path)], env={})
    assert settings.log_content_models == ("a", "b")
    assert GenerationSettings().log_content_models == ()


@pytest.mark.parametrize("endpoint", ["collector", "http://collector:4317", "collector:x", ":4317"])
def test_an_endpoint_is_host_and_port(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="otlp_endpoint"):
        load_settings(MeshSettings, ["--otlp-endpoint", endpoint], env={})
    assert load_settings(MeshSettings, ["--otlp-endpoint", "collector:4317"], env={}).telemetry

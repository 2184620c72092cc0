"""Settings that change while a process runs: which may, and what an illegal value does."""

import logging
from pathlib import Path

import pytest

from mlxmesh_shared.settings import (
    SETTINGS,
    GatewaySettings,
    LiveSettings,
    dynamic_names,
    load_settings,
    section_values,
    sources,
)


def live(*argv: str, env: dict[str, str] | None = None) -> LiveSettings[GatewaySettings]:
    return LiveSettings(
        lambda stored: load_settings(GatewaySettings, argv, env=env or {}, stored=stored)
    )


def test_every_process_may_change_its_log_level() -> None:
    assert all("log_level" in dynamic_names(cls) for cls in SETTINGS.values())
    assert "listen" not in dynamic_names(GatewaySettings)


def test_a_subscriber_hears_the_settings_now_and_after_each_change() -> None:
    settings, heard = live(), list[float]()
    settings.subscribe(lambda now: heard.append(now.max_deadline_s))

    settings.apply({"max_deadline_s": "7"})
    settings.apply({"max_deadline_s": "7"})
    settings.apply({})

    assert heard == [3600, 7, 3600]
    assert settings.current.max_deadline_s == 3600


def test_an_illegal_value_is_logged_once_and_the_last_good_one_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = live()
    settings.apply({"max_deadline_s": "7"})

    settings.apply({"max_deadline_s": "soon", "default_deadline_s": "5"})
    settings.apply({"max_deadline_s": "soon", "default_deadline_s": "6"})

    assert settings.current.max_deadline_s == 7
    assert settings.current.default_deadline_s == 6
    assert settings.stored == {"max_deadline_s": "7", "default_deadline_s": "6"}
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "max_deadline_s: Input should be a valid number" in record.getMessage()


@pytest.mark.parametrize("name", ["listen", "registry", "consul.token", "no_such_setting"])
def test_only_dynamic_settings_change(name: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = live()
    before = settings.current

    settings.apply({name: "127.0.0.1:9"})

    assert settings.current == before
    assert f"{name} is not a setting that can change" in caplog.text
    assert "max_deadline_s" in caplog.text


def test_the_store_lies_between_the_file_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "mlxmesh.toml").write_text("[gateway]\nmax_deadline_s = 1\n")
    argv = ["--data-dir", str(tmp_path)]
    stored = {"max_deadline_s": "2"}
    env = {"MLXMESH_GATEWAY_MAX_DEADLINE_S": "3"}

    def found(env: dict[str, str], *flags: str) -> tuple[float, str]:
        rows = sources(GatewaySettings, [*argv, *flags], env=env, stored=stored)
        (row,) = [row for row in rows if row.name == "max_deadline_s"]
        return row.value, row.source

    assert found({}) == (2, "configuration store")
    assert found(env) == (3, "environment MLXMESH_GATEWAY_MAX_DEADLINE_S")
    assert found(env, "--max-deadline-s", "4") == (4, "flag --max-deadline-s")


def test_a_sections_own_key_lies_above_the_meshs() -> None:
    values = {
        "mesh/": "",
        "mesh/log_level": "warning",
        "gateway/log_level": "debug",
        "gateway/max_deadline_s": "7",
        "model/log_level": "error",
    }

    assert section_values(values, "gateway") == {"log_level": "debug", "max_deadline_s": "7"}
    assert section_values(values, "runtime") == {"log_level": "warning"}


def test_a_watcher_hears_what_changed_and_nothing_at_first() -> None:
    settings, heard = live(), list[dict[str, object]]()
    settings.watch(lambda changed: heard.append(dict(changed)))

    settings.apply({"max_deadline_s": "7", "log_level": "debug"})
    settings.apply({"max_deadline_s": "7"})
    settings.apply({"max_deadline_s": "7"})

    assert heard == [{"max_deadline_s": 7, "log_level": "debug"}, {"log_level": "info"}]

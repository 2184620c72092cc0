"""How output looks: states in one vocabulary, colours where they are wanted."""

from __future__ import annotations

import pytest

from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh.telemetry.v1 import telemetry_pb2 as t
from mlxmesh_cli.screen.output import enum_word, say, to_dict
from mlxmesh_cli.screen.word_wrap import printable


def test_states_are_the_words_of_the_tables() -> None:
    breaker = t.Breaker(state=t.BREAKER_STATE_HALF_OPEN)
    engine = t.Instance(service="engine", health=t.HEALTH_NOT_SERVING, breaker=breaker)
    data = to_dict(t.GetMeshStatusResponse(instances=[engine]))
    assert data["instances"][0]["health"] == "not_serving"
    assert data["instances"][0]["breaker"]["state"] == "half_open"


def test_maps_and_times_stay_as_they_are() -> None:
    version = m.ModelVersion(version=1, state=m.VERSION_STATE_READY, parameters=5)
    version.create_time.FromSeconds(0)
    data = to_dict(m.Model(name="a", versions=[version], aliases={"stable": 1}))
    assert data["aliases"] == {"stable": 1}
    assert data["versions"][0]["state"] == "ready"
    assert data["versions"][0]["create_time"] == "1970-01-01T00:00:00Z"


def test_an_enum_without_its_prefix_is_only_lowered() -> None:
    assert enum_word("Health", "HEALTH_SERVING") == "serving"
    assert enum_word("Other", "HEALTH_SERVING") == "health_serving"


@pytest.mark.parametrize(
    ("variables", "is_coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colour_follows_the_variables(
    variables: dict[str, str],
    is_coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    say("words", "red")
    assert ("\x1b[31m" in capsys.readouterr().out) is is_coloured


def test_printable_text_stays() -> None:
    assert printable("a\tb\nä 漢 👩‍👩‍👧") == "a\tb\nä 漢 👩‍👩‍👧"

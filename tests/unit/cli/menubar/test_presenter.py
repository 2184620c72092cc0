"""What the menu shows, and what its lines do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlxmesh.model.v1.model_pb2 import VERSION_STATE_READY, Model, ModelVersion
from mlxmesh_cli.menubar.local_mesh import model_state
from mlxmesh_cli.menubar.ports import MeshState, ModelState
from mlxmesh_cli.menubar.presenter import MenuBar, shortened
from tests.fakes.menubar import FakeMenu, FakeMesh

RUNNING = MeshState(
    is_running=True,
    models=(ModelState("qwen", True, "ready"), ModelState("llama", False, "available")),
    tokens_per_s=41.6,
    running=2,
)


class Rig:
    def __init__(self, state: MeshState = RUNNING) -> None:
        self.menu, self.mesh = FakeMenu(), FakeMesh(state)
        self.bar = MenuBar(self.menu, self.mesh)
        self.bar.refresh()


def test_a_mesh_that_runs() -> None:
    rig = Rig()
    assert rig.menu.title == "42 tok/s"
    assert rig.menu.texts() == [
        "2 running, 42 tokens/s",
        "",
        "qwen: ready",
        "llama: available",
        "",
        "Open console",
        "Stop mesh",
        "",
        "Quit menu",
    ]
    assert [item.is_checked for item in rig.menu.items][2:4] == [True, False]


def test_a_mesh_that_does_not_run_can_be_started() -> None:
    rig = Rig(MeshState())
    assert rig.menu.title == "mesh off"
    assert "Open console" in rig.menu.texts()
    assert next(item for item in rig.menu.items if item.text == "Open console").action is None
    rig.menu.choose("Start mesh")
    assert rig.mesh.current.is_running
    assert rig.menu.told == ["starting the mesh: done"]
    assert "Stop mesh" in rig.menu.texts()


def test_models_are_loaded_and_unloaded() -> None:
    rig = Rig()
    rig.menu.choose("llama: available", "Load")
    assert "llama: ready" in rig.menu.texts()
    rig.menu.choose("qwen: ready", "Unload")
    assert "qwen: available" in rig.menu.texts()
    assert rig.menu.told == ["loading llama: done", "unloading qwen: done"]


def test_it_says_what_it_does_meanwhile() -> None:
    rig = Rig()
    seen: list[str] = []
    rig.mesh.during = lambda: seen.append(rig.menu.texts()[0])
    rig.menu.choose("Stop mesh")
    assert seen[0] == "stopping the mesh"
    assert "mesh …" in rig.menu.titles
    assert rig.menu.title == "mesh off"


def test_a_failure_is_told_and_the_menu_stays_usable() -> None:
    rig = Rig()
    rig.mesh.fails = "no memory for llama"
    rig.menu.choose("llama: available", "Load")
    assert rig.menu.told == ["loading llama failed: no memory for llama"]
    assert rig.menu.texts()[0] == "no memory for llama"
    rig.mesh.fails = ""
    rig.bar.refresh()
    assert rig.menu.title == "42 tok/s"


def test_the_console_opens() -> None:
    rig = Rig()
    rig.menu.choose("Open console")
    assert rig.menu.opened == ["http://127.0.0.1:8051"]
    rig.mesh.address = None
    rig.menu.choose("Open console")
    assert "no HTTP port" in rig.menu.told[-1]


def test_quitting_leaves_the_mesh() -> None:
    rig = Rig()
    rig.menu.choose("Quit menu")
    assert rig.menu.has_quit
    assert rig.mesh.current.is_running


@pytest.mark.parametrize(
    ("change", "title"),
    [({"processes_down": 1}, "mesh !"), ({"tokens_per_s": 0.2}, "mesh")],
)
def test_the_title_says_what_matters_most(change: dict[str, float], title: str) -> None:
    assert Rig(replace(RUNNING, **change)).menu.title == title


def test_many_models_are_cut_and_odd_names_are_one_short_line() -> None:
    models = tuple(ModelState(f"m{n}", False, "available") for n in range(40))
    rig = Rig(replace(RUNNING, models=models))
    assert "10 more in the console" in rig.menu.texts()
    assert Rig(replace(RUNNING, models=())).menu.texts()[2] == "no models"
    assert shortened("a\n\x1b[31mb\t c") == "a [31mb c"
    assert len(shortened("x" * 500)) == 60


def test_a_model_is_shown_by_its_most_wanted_version() -> None:
    old = ModelVersion(version=1, desired_replicas=1, state=VERSION_STATE_READY)
    model = Model(name="qwen", versions=[old, ModelVersion(version=2)])
    assert model_state(model) == ModelState("qwen", True, "ready")
    assert model_state(Model(name="best-of")) == ModelState("best-of", False, "ensemble")

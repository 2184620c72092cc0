import pytest

from mlxmesh_shared.process import EXIT_WITH_PARENT, child_environment

NAME = "GRPC_EXPERIMENTS"


def test_a_service_ends_with_its_parent() -> None:
    assert child_environment()[EXIT_WITH_PARENT] == "1"


def test_grpc_is_tuned_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert "-event_engine_client" in child_environment(platform="linux")[NAME]
    assert NAME not in child_environment(platform="darwin")


def test_what_was_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "own")
    assert child_environment(platform="linux")[NAME] == "own"

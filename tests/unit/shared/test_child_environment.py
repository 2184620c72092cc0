import sys

import pytest

from mlxmesh_shared.process.startup import EXIT_WITH_PARENT, child_environment
from mlxmesh_shared.rpc.grpc_threads import grpc_environment

NAME = "GRPC_EXPERIMENTS"


def test_a_service_ends_with_its_parent() -> None:
    assert child_environment()[EXIT_WITH_PARENT] == "1"


def test_grpc_is_tuned_where_it_was_measured() -> None:
    assert "-event_engine_client" in grpc_environment(platform="linux")[NAME]
    assert NAME not in grpc_environment(platform="darwin")


def test_services_are_tuned_as_their_platform_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert child_environment().get(NAME) == grpc_environment(platform=sys.platform).get(NAME)


def test_what_was_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "own")
    assert child_environment()[NAME] == "own"


def test_services_do_not_get_the_key_of_who_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXMESH_API_KEY", "mlx_secret")
    assert "mlx_secret" not in child_environment().values()

"""Secrets that an update does not name stay with the program or origin that they were given for."""

import pytest

from mlxmesh.tool.v1 import tool_pb2 as pb
from mlxmesh_tools.convert import from_update
from mlxmesh_tools.domain.models import Http, ServerConfig, Stdio

WEB = Http(url="https://tools.example/mcp", headers={"authorization": "secret"})
FILES = Stdio(command=("files", "--root", "/a"), environment={"TOKEN": "secret"}, directory="")


def updated(transport: Http | Stdio, request: pb.UpdateServerRequest) -> Http | Stdio:
    return from_update(request)(ServerConfig(name="s", transport=transport)).transport


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://tools.example/other", "secret"),
        ("https://TOOLS.example/mcp?x=1", "secret"),
        ("https://tools.example:8443/mcp", ""),
        ("http://tools.example/mcp", ""),
        ("https://evil.example/mcp", ""),
    ],
)
def test_headers_stay_with_their_origin(url: str, kept: str) -> None:
    request = pb.UpdateServerRequest(
        http=pb.HttpTransport(url=url, headers={"authorization": "", "x-new": "n"})
    )
    found = updated(WEB, request)
    assert isinstance(found, Http)
    assert found.headers == {"authorization": kept, "x-new": "n"}


@pytest.mark.parametrize(
    ("command", "kept"), [(("files", "--root", "/b"), "secret"), (("env",), "")]
)
def test_variables_stay_with_their_program(command: tuple[str, ...], kept: str) -> None:
    request = pb.UpdateServerRequest(
        stdio=pb.StdioTransport(command=command, environment={"TOKEN": ""})
    )
    found = updated(FILES, request)
    assert isinstance(found, Stdio)
    assert found.environment == {"TOKEN": kept}

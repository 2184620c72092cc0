"""What a client sends as its credentials, to whom, and what it refuses to send."""

import re
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_client import CertificateFiles, InvalidArgument, MeshClient
from mlxmesh_client.calls import Calls
from mlxmesh_client.credentials import MAX_KEY_CHARACTERS, check_key, chosen_key
from tests.unit.client.test_calls import ScriptedMethod, unavailable

KEY = "mlx_0123456789abcdef"
TLS = CertificateFiles(Path("ca.crt"))


class Recorder(ScriptedMethod):
    """A method that keeps the metadata of each call."""

    def __init__(self, *script: Any) -> None:
        super().__init__(*script)
        self.metadata: list[Any] = []

    async def unary(
        self, request: str, *, timeout: float | None = None, metadata: Any = None
    ) -> Any:
        self.metadata.append(metadata)
        return await super().unary(request, timeout=timeout)

    def stream(self, request: str, *, timeout: float | None = None, metadata: Any = None) -> Any:
        self.metadata.append(metadata)
        return super().stream(request, timeout=timeout)


async def test_every_call_carries_the_key() -> None:
    method = Recorder("answer", ["message"])
    calls = Calls(attempts=1, api_key=KEY)

    await calls.unary(method.unary, "?", None, safe=True)
    assert [one async for one in calls.stream(method.stream, "?", None, safe=True)] == ["message"]

    assert method.metadata == [(("authorization", f"Bearer {KEY}"),)] * 2


async def test_an_anonymous_call_carries_none() -> None:
    method = Recorder("answer")
    await Calls(attempts=1, api_key=KEY).unary(method.unary, "?", None, safe=True, anonymous=True)
    assert method.metadata == [None]


async def test_a_source_is_asked_before_each_attempt() -> None:
    tokens = ["first", "second"]

    async def source() -> str:
        return tokens.pop(0)

    method = Recorder(unavailable(), "answer")
    await Calls(attempts=2, api_key=source).unary(method.unary, "?", None, safe=True)

    sent = [dict(metadata)["authorization"] for metadata in method.metadata]
    assert sent == ["Bearer first", "Bearer second"]


def test_the_environments_key_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLXMESH_API_KEY", raising=False)
    assert chosen_key(None) == ""
    monkeypatch.setenv("MLXMESH_API_KEY", f" {KEY}\n")
    assert chosen_key(None) == KEY
    assert chosen_key("other") == "other"
    assert chosen_key("") == ""


@pytest.mark.parametrize("key", ["a b", "a\nb", "schlüssel", "x" * (MAX_KEY_CHARACTERS + 1)])
def test_what_cannot_be_a_key_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_key(key)
    assert caught.value.field == "api_key"
    assert key not in str(caught.value)


@pytest.mark.parametrize("address", ["mesh.example:50051", "10.0.0.7:50051", "[fe80::1]:50051"])
async def test_a_key_does_not_leave_this_machine_unencrypted(address: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(address)) as caught:
        MeshClient(address, api_key=KEY)
    assert KEY not in str(caught.value)
    with pytest.raises(InvalidArgument):
        MeshClient("127.0.0.1:1", gateways=[address], api_key=KEY)

    async with MeshClient(address, api_key=KEY, insecure_key=True):
        pass
    async with MeshClient(address, api_key=""):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.1.2.3:1"])
async def test_on_this_machine_it_needs_no_encryption(address: str) -> None:
    async with MeshClient(address, api_key=KEY):
        pass


def test_with_certificates_it_may_go_anywhere(tmp_path: Path) -> None:
    # That it is the certificates which are missing shows that the key was accepted.
    with pytest.raises(Exception, match=r"ca\.crt"):
        MeshClient("mesh.example:50051", api_key=KEY, tls=CertificateFiles(tmp_path / "ca.crt"))

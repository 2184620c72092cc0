"""Hosts join and renew their certificates over real gRPC with TLS; illegal requests are refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.control.v1 import hosts_pb2 as pb
from mlxmesh.control.v1.hosts_pb2_grpc import (
    HostServiceStub,
    JoinServiceStub,
    RenewalServiceStub,
)
from mlxmesh_launcher.authority import ensure_certificates, write_self_signed
from mlxmesh_launcher.certificate_directory import read_certificates, until_due_s
from mlxmesh_launcher.hosts import joining, local_host
from mlxmesh_launcher.hosts.admission import roles_of
from mlxmesh_launcher.hosts.audit import AuditOutbox, deliver_audit
from mlxmesh_launcher.hosts.first_host import FirstHost
from mlxmesh_launcher.hosts.join_token import JoinToken, parse_token
from mlxmesh_launcher.hosts.recalling import Recalled, write_recalled
from mlxmesh_launcher.hosts.reports import HostReports
from mlxmesh_launcher.hosts.state import HostState, folder_of, renewal_address_of
from mlxmesh_launcher.servicer import control_server
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    MeshError,
    PermissionDenied,
    ServiceUnavailable,
    Unauthenticated,
)
from mlxmesh_shared.events import event_name
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel
from mlxmesh_shared.settings import MeshSettings, load_settings
from mlxmesh_shared.tls import CertificateFiles, CertificateSource, ServerTls
from mlxmesh_shared.tls.recalled import FILE_NAME, RecalledCertificates, fingerprint
from tests.fakes.ports import free_ports
from tests.fakes.recording_access import RecordingAccess
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.serving import serving
from tests.integration.launcher.test_launcher_service import Processes

OPERATOR = "spiffe://mlxmesh/admin"
CSR = {"certificate_requests": [{"role": "runtime", "csr": b"x"}]}


class Instances:
    """A registry that lists what a test puts there."""

    def __init__(self) -> None:
        self.listed: list[Instance] = []

    async def resolve(self, service: str) -> tuple[Instance, ...]:
        return tuple(one for one in self.listed if one.service == service)


class First:
    """The first host of a mesh, on the loopback address."""

    def __init__(self, data_dir: Path, port: int) -> None:
        state = HostState("a", "127.0.0.1", "a", consul="/x", gossip_key="key", join_port=port)
        ensure_certificates(data_dir / "tls")
        self.state = state
        self.tls_dir = data_dir / "tls"
        self.registry = Instances()
        self.forgotten: list[str] = []
        self.events: list[Message] = []
        self.outbox = AuditOutbox(folder_of(data_dir))
        self.host = FirstHost(
            state,
            data_dir,
            data_dir / "tls",
            self.registry,  # pyright: ignore[reportArgumentType] - only resolve is used
            consul_prefix="mlxmesh",
            forget=self._forget,
            reports=HostReports(self.publish, self.outbox),
        )

    def publish(self, payload: Message, correlation_id: str = "") -> None:
        self.events.append(payload)

    async def _forget(self, name: str) -> None:
        self.forgotten.append(name)

    async def token(self) -> JoinToken:
        _, token = await self.host.invite([], 0, OPERATOR)
        return parse_token(token)

    async def server(self, token: JoinToken) -> joining.Server:
        return await asyncio.to_thread(
            joining.find_server, "127.0.0.1", self.state.join_port, token
        )

    async def join(self, tls_dir: Path, name: str = "b") -> HostState:
        token = await self.token()
        server = await self.server(token)
        response, keys = await joining.ask_to_join(server, token, address="10.0.0.2", name=name)
        joining.write_certificates(tls_dir, response.ca_certificate, response.certificates, keys)
        return joining.joined_state(response, name=name, address="10.0.0.2", consul="/x")


@pytest.fixture
async def first(tmp_path: Path) -> AsyncIterator[First]:
    first = First(tmp_path / "a", free_ports(2)[0])
    await first.host.start()
    yield first
    await first.host.stop()


async def until_closed(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.05)


async def test_a_host_joins_renews_its_certificates_and_is_removed(
    first: First, tmp_path: Path
) -> None:
    tls_dir = tmp_path / "b"
    state = await first.join(tls_dir)
    assert state.services == ("runtime", "generation", "gateway")
    assert (state.first_host, state.gossip_key) == ("a", "key")
    assert state.renewal_address == renewal_address_of(first.state)
    assert {path.stat().st_mode & 0o777 for path in tls_dir.glob("*.key")} == {0o600}
    assert not (tls_dir / "ca.key").exists()

    before = {each.role: each.path.read_bytes() for each in read_certificates(tls_dir)}
    source = CertificateSource(CertificateFiles.of_role(tls_dir, "runtime"))
    await joining.renew_certificates(state, tls_dir, source)
    after = {each.role: each.path.read_bytes() for each in read_certificates(tls_dir)}
    assert {role for role in after if after[role] == before[role]} == {"ca"}

    first.registry.listed = [Instance("gateway", "g", "10.0.0.2:1", 1, {"host": "b"})]
    with pytest.raises(IllegalState, match="still runs gateway"):
        await first.host.remove("b", OPERATOR)
    first.registry.listed = []
    await first.host.remove("b", OPERATOR)
    assert first.forgotten == ["b"]
    source = CertificateSource(CertificateFiles.of_role(tls_dir, "runtime"))
    with pytest.raises(PermissionDenied, match="was removed"):
        await joining.renew_certificates(state, tls_dir, source)


async def test_the_port_is_open_only_while_there_are_invitations(
    first: First, tmp_path: Path
) -> None:
    token = await first.token()
    await first.server(token)
    first.host.revoke(token.invitation_id)
    await until_closed(first.state.join_port)
    with pytest.raises(ServiceUnavailable, match="no invitation is open"):
        await first.server(token)
    await first.join(tmp_path / "b")
    await until_closed(first.state.join_port)


async def test_a_token_that_was_used_is_refused(first: First, tmp_path: Path) -> None:
    token = await first.token()
    server = await first.server(token)
    await joining.ask_to_join(server, token, address="10.0.0.2", name="b")
    await first.token()  # keeps the port open
    with pytest.raises(Unauthenticated, match="host b used this token already"):
        await joining.ask_to_join(server, token, address="10.0.0.3", name="c")


async def test_a_certificate_that_the_token_does_not_name_is_refused(
    first: First, tmp_path: Path
) -> None:
    token = await first.token()
    other = JoinToken(token.invitation_id, token.secret, bytes(32))
    with pytest.raises(IllegalState, match="not the one that the token names"):
        await first.server(other)
    # One who passes the first look with a copied certificate has not its key.
    server = await first.server(token)
    write_self_signed(tmp_path / "other", "join.mlxmesh")
    forged = joining.Server(
        server.host, server.port, (tmp_path / "other.crt").read_bytes(), server.own_address
    )
    with pytest.raises(ServiceUnavailable):
        await joining.ask_to_join(forged, token, address="10.0.0.2", name="b")
    await joining.ask_to_join(server, token, address="10.0.0.2", name="b")


async def test_it_is_refused_without_tls(first: First) -> None:
    await first.token()
    address = f"127.0.0.1:{first.state.join_port}"
    async with open_channel(address, timeouts=LONG_TIMEOUTS) as channel:
        with pytest.raises(MeshError):
            await JoinServiceStub(channel).Join(pb.JoinRequest(), timeout=10)


async def test_renewal_needs_a_certificate_of_this_mesh(first: First, tmp_path: Path) -> None:
    state = await first.join(tmp_path / "b")
    ensure_certificates(tmp_path / "foreign")
    foreign = CertificateFiles.of_role(tmp_path / "foreign", "runtime")
    mixed = CertificateFiles(tmp_path / "b" / "ca.crt", foreign.certificate, foreign.key)
    with pytest.raises(ServiceUnavailable):
        await joining.renew_certificates(state, tmp_path / "c", CertificateSource(mixed))
    client = CertificateFiles.of_role(tmp_path / "b", "client")
    with pytest.raises(PermissionDenied):
        await joining.renew_certificates(state, tmp_path / "c", CertificateSource(client))


ILLEGAL: list[tuple[dict[str, Any], str]] = [
    ({"invitation_id": ""}, "invitation_id"),
    ({"invitation_id": "../../../etc"}, "invitation_id"),
    ({"secret": b""}, "secret"),
    ({"secret": bytes(19)}, "secret"),
    ({"secret": bytes(21)}, "secret"),
    ({"host_name": ""}, "host_name"),
    ({"host_name": "b\nc"}, "host_name"),
    ({"host_name": "b" * 254}, "host_name"),
    ({"address": ""}, "address"),
    ({"address": "1" * 46}, "address"),
    ({"address": "127.0.0.1"}, "address"),
    ({"version": ""}, "version"),
    ({"version": "1" * 65}, "version"),
    ({"local_time": None}, "local_time"),
    ({"certificate_requests": []}, "certificate_requests"),
    ({"certificate_requests": [{"role": "runtime", "csr": b"x"}] * 17}, "certificate_requests"),
    ({"certificate_requests": [{"role": "runtime", "csr": b"x"}] * 2}, "certificate_requests"),
    ({"certificate_requests": [{"role": "Run", "csr": b"x"}]}, "certificate_requests[0].role"),
    ({"certificate_requests": [{"role": "", "csr": b"x"}]}, "certificate_requests[0].role"),
    ({"certificate_requests": [{"role": "runtime"}]}, "certificate_requests[0].csr"),
    (
        {"certificate_requests": [{"role": "runtime", "csr": bytes(4097)}]},
        "certificate_requests[0].csr",
    ),
]


async def test_illegal_requests_to_join_name_the_field(first: First, tmp_path: Path) -> None:
    token = await first.token()
    server = await first.server(token)
    now = Timestamp()
    now.GetCurrentTime()
    legal: dict[str, Any] = {
        "invitation_id": token.invitation_id,
        "secret": token.secret,
        "host_name": "b",
        "address": "10.0.0.2",
        "version": "0.1.0",
        "local_time": now,
        **CSR,
    }
    (tmp_path / "join.crt").write_bytes(server.certificate)
    files = CertificateFiles(tmp_path / "join.crt")
    async with open_channel(
        f"127.0.0.1:{first.state.join_port}",
        role="join",
        certificates=CertificateSource(files),
        timeouts=LONG_TIMEOUTS,
    ) as channel:
        stub = JoinServiceStub(channel)
        for changes, field in ILLEGAL:
            with pytest.raises(InvalidArgument) as caught:
                await stub.Join(pb.JoinRequest(**{**legal, **changes}), timeout=10)
            assert caught.value.field == field, changes
    assert first.host.hosts() == []


async def test_a_host_that_joins_keeps_no_certificates_of_an_earlier_mesh(
    first: First, tmp_path: Path
) -> None:
    """They would be due for ever, since the first host does not renew them."""
    ensure_certificates(tmp_path / "b", timedelta(seconds=-1))
    state = await first.join(tmp_path / "b")
    roles = roles_of(state.services, runs_agent=True)
    assert {path.stem for path in (tmp_path / "b").glob("*.crt")} == {"ca", *roles}
    assert {path.stem for path in (tmp_path / "b").glob("*.key")} == {"ca", *roles}
    assert until_due_s(tmp_path / "b") > 0


async def test_illegal_requests_to_renew_name_the_field(first: First, tmp_path: Path) -> None:
    await first.join(tmp_path / "b")
    own = CertificateSource(CertificateFiles.of_role(tmp_path / "b", "runtime"))
    legal: dict[str, Any] = {"host_name": "b", **CSR}
    async with open_channel(
        first.host.renewal_address, role="runtime", certificates=own, timeouts=LONG_TIMEOUTS
    ) as channel:
        stub = RenewalServiceStub(channel)
        for changes, field in ILLEGAL:
            if changes.keys() <= legal.keys():
                request = pb.RenewCertificatesRequest(**{**legal, **changes})
                with pytest.raises(InvalidArgument) as caught:
                    await stub.RenewCertificates(request, timeout=10)
                assert caught.value.field == field, changes
        for name in ("", "../b", "b" * 254):
            asked = pb.ListRecalledCertificatesRequest(host_name=name)
            with pytest.raises(InvalidArgument) as caught:
                await stub.ListRecalledCertificates(asked, timeout=10)
            assert caught.value.field == "host_name"


async def test_the_operator_invites_lists_revokes_and_removes(first: First, tmp_path: Path) -> None:
    server = control_server(Processes(), leaving=asyncio.Event(), hosts=first.host)
    async with serving(server) as address, open_channel(address) as channel:
        stub = HostServiceStub(channel)
        made = await stub.CreateInvitation(pb.CreateInvitationRequest(services=["runtime"]))
        assert made.address == f"127.0.0.1:{first.state.join_port}"
        assert made.invitation.state == pb.INVITATION_STATE_OPEN
        open_s = made.invitation.expire_time.seconds - made.invitation.create_time.seconds
        assert open_s == 900
        await stub.RevokeInvitation(pb.RevokeInvitationRequest(id=made.invitation.id))
        [listed] = (await stub.ListInvitations(pb.ListInvitationsRequest())).invitations
        assert (listed.state, list(listed.services)) == (pb.INVITATION_STATE_REVOKED, ["runtime"])
        await first.join(tmp_path / "b")
        [host] = (await stub.ListHosts(pb.ListHostsRequest())).hosts
        assert (host.name, host.address) == ("b", "10.0.0.2")
        await stub.RemoveHost(pb.RemoveHostRequest(name="b"))
        assert not (await stub.ListHosts(pb.ListHostsRequest())).hosts
        illegal: list[tuple[Any, Any, str]] = [
            (stub.CreateInvitation, pb.CreateInvitationRequest(services=["model"]), "services[0]"),
            (stub.CreateInvitation, pb.CreateInvitationRequest(services=["gateway"]), "services"),
            (
                stub.CreateInvitation,
                pb.CreateInvitationRequest(services=["runtime"] * 5),
                "services",
            ),
            (stub.CreateInvitation, pb.CreateInvitationRequest(lifetime_s=86_401), "lifetime_s"),
            (stub.RevokeInvitation, pb.RevokeInvitationRequest(id="x"), "id"),
            (stub.RevokeInvitation, pb.RevokeInvitationRequest(), "id"),
            (stub.RemoveHost, pb.RemoveHostRequest(name="../b"), "name"),
            (stub.RemoveHost, pb.RemoveHostRequest(), "name"),
        ]
        for call, request, field in illegal:
            with pytest.raises(InvalidArgument) as caught:
                await call(request)
            assert caught.value.field == field


async def test_a_mesh_on_one_host_says_how_to_begin_one_of_several() -> None:
    server = control_server(Processes(), leaving=asyncio.Event())
    async with serving(server) as address, open_channel(address) as channel:
        stub = HostServiceStub(channel)
        with pytest.raises(IllegalState, match="mlxmesh up --hosts"):
            await stub.CreateInvitation(pb.CreateInvitationRequest())


async def removed(first: First, name: str, *, force: bool = False) -> frozenset[str]:
    """Removes a host; the fingerprints that processes of the first host refuse from then on."""
    await first.host.remove(name, OPERATOR, force=force)
    return RecalledCertificates(first.tls_dir / FILE_NAME).current()


async def test_the_certificates_of_a_host_that_was_removed_are_recalled(
    first: First, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stolen, other = tmp_path / "b", tmp_path / "c"
    state = await first.join(stolen)
    remaining = await first.join(other, name="c")
    early = fingerprints(stolen)
    source = CertificateSource(CertificateFiles.of_role(stolen, "runtime"))
    await joining.renew_certificates(state, stolen, source)
    first.registry.listed = [Instance("gateway", "g", "10.0.0.2:1", 1, {"host": "b"})]
    with pytest.raises(IllegalState, match="--force"):
        await first.host.remove("b", OPERATOR)

    recalled = await removed(first, "b", force=True)

    # Those before the renewal too: whoever copied them has them still.
    assert recalled == early | fingerprints(stolen)
    assert not recalled & (fingerprints(other) | fingerprints(first.tls_dir))
    shown = CertificateSource(CertificateFiles.of_role(other, "runtime"))
    assert set(await joining.recalled_certificates(remaining, shown)) == recalled
    write_recalled(other, recalled)
    assert RecalledCertificates(other / FILE_NAME).current() == recalled
    gone = CertificateSource(CertificateFiles.of_role(stolen, "runtime"))
    # The launcher's own server refuses it, once it has read the file again.
    async with asyncio.timeout(30):
        while True:
            try:
                await joining.recalled_certificates(state, gone)
            except Unauthenticated:
                break
            except PermissionDenied:
                await asyncio.sleep(0.1)
    settings = load_settings(
        MeshSettings,
        ["--data-dir", str(tmp_path), "--registry", "consul", "--tls-dir", str(stolen)],
    )
    away: Any = None  # it is refused before it looks for others
    monkeypatch.setattr(local_host, "MEMBERSHIP_TIMEOUT_S", 30)
    host = local_host.LocalHost(
        replace(state, consul=""), settings, away, away, publish=first.publish
    )
    with pytest.raises(IllegalState, match=r"a refuses this one: .* let the host join again"):
        await host.start(lambda _: None)
    # A first host that starts again tells so again.
    (first.tls_dir / FILE_NAME).unlink()
    Recalled(folder_of(first.tls_dir.parent), first.tls_dir, time.time)
    assert RecalledCertificates(first.tls_dir / FILE_NAME).current() == recalled


def fingerprints(tls_dir: Path) -> set[str]:
    """Of all certificates in a directory but the authority's."""
    found = read_certificates(tls_dir)
    return {fingerprint(each.path.read_bytes()) for each in found if each.role != "ca"}


async def test_who_joined_is_told_as_events_and_in_the_audit_log(
    first: First, tmp_path: Path
) -> None:
    state = await first.join(tmp_path / "b")
    token = await first.token()
    server = await first.server(token)
    wrong = JoinToken(token.invitation_id, bytes(20), token.fingerprint)
    with pytest.raises(Unauthenticated):
        await joining.ask_to_join(server, wrong, address="10.0.0.3", name="c")
    await first.host.remove(state.name, OPERATOR)
    assert [event_name(event) for event in first.events] == [
        "host.invited",
        "host.joined",
        "host.invited",
        "host.join_refused",
        "host.removed",
    ]

    tls_dir = tmp_path / "a" / "tls"
    access = RecordingAccess(lost_answers=1)
    certificates = CertificateSource(CertificateFiles.of_role(tls_dir, "access"))
    registry = InMemoryRegistry()
    delivering = asyncio.create_task(deliver_audit(first.outbox, registry, tls_dir, 0.1))
    async with serving(access.server(ServerTls(certificates))) as address:
        await registry.register(Instance("access", "access-1", address, 1))
        async with asyncio.timeout(60):
            while first.outbox.entries:
                await asyncio.sleep(0.05)
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
    entries = [each for request in access.recorded.values() for each in request.entries]
    assert [(each.action, each.actor) for each in entries] == [
        ("host.invited", OPERATOR),
        ("host.joined", "host:b"),
        ("host.invited", OPERATOR),
        ("host.join_refused", "peer:127.0.0.1"),
        ("host.removed", OPERATOR),
    ]
    assert token.secret.hex() not in str(entries)

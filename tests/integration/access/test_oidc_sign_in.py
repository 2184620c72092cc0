"""Sign-in at an OpenID Connect issuer on loopback, over gRPC, on both kinds of database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_access.schema import ACCESS
from mlxmesh_access.sign_in.oidc.http_issuer import HttpIssuer
from mlxmesh_access.sign_in.oidc.identities import Identities
from mlxmesh_access.sign_in.oidc.oidc_sign_in import (
    BEGUN_BY_HOST,
    PENDING_S,
    OidcClient,
    OidcSignIn,
)
from mlxmesh_shared.access_tokens import AccessTokenVerifier
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    IssuerUnavailable,
    MeshError,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
    UserExists,
)
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.databases import sqlite_with_tables
from tests.fakes.oidc_issuer import (
    CLIENT_ID,
    CLIENT_SECRET,
    FakeIssuer,
    IssuerKey,
    Misbehaviour,
    fake_issuer,
    hmac_signed,
    json_text,
    signed_by_another,
    unsigned,
)
from tests.fakes.sign_in_rig import sign_in_rig
from tests.integration.access.conftest import PASSWORD, Service, Services

REDIRECT = "http://localhost:51234/callback"


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with fake_issuer() as issuer:
        yield issuer


def settings(issuer: FakeIssuer, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    secret_file = tmp_path / "client.secret"
    secret_file.write_text(CLIENT_SECRET + "\n")
    return {
        "oidc_issuer": issuer.url,
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret_file": secret_file,
        "oidc_redirect_uris": ("http://localhost",),
        "oidc_approve": True,
        **changes,
    }


async def started(
    services: Services, issuer: FakeIssuer, tmp_path: Path, **changes: Any
) -> Service:
    service, _ = await services.start(**settings(issuer, tmp_path, **changes))
    issuer.clock = lambda: service.clock.now_ms / 1000
    await service.add_users()
    return service


@pytest.fixture
async def sqlite_services(tmp_path: Path) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        yield Services(stack, sqlite_with_tables(tmp_path / "access.db", ACCESS), tmp_path)


@pytest.fixture
async def service(services: Services, issuer: FakeIssuer, tmp_path: Path) -> Service:
    return await started(services, issuer, tmp_path)


async def begun(service: Service) -> pb.BeginOidcSignInResponse:
    return await service.nobody.BeginOidcSignIn(redirect_uri=REDIRECT)


async def signed_in(service: Service, issuer: FakeIssuer) -> pb.SessionTokens:
    back = issuer.browse((await begun(service)).authorization_url)
    return (await service.nobody.CompleteOidcSignIn(**back)).tokens


async def test_a_browser_signs_a_user_in(service: Service, issuer: FakeIssuer) -> None:
    begun_ = await begun(service)
    async with (
        aiohttp.ClientSession() as browser,
        browser.get(begun_.authorization_url, allow_redirects=False) as response,
    ):
        location = urlsplit(response.headers["Location"])
    assert location.geturl().startswith(REDIRECT + "?")
    query = {name: values[0] for name, values in parse_qs(location.query).items()}
    assert query["state"] == begun_.state
    tokens = (await service.nobody.CompleteOidcSignIn(**query)).tokens
    user = tokens.user
    assert (user.name, user.state, user.oidc_issuer) == ("ada", pb.USER_STATE_ACTIVE, issuer.url)
    assert user.role == pb.ACCESS_ROLE_MEMBER
    options = await service.nobody.GetSignInOptions()
    assert options.oidc_issuer == issuer.url
    verifier = AccessTokenVerifier(options.jwks_json)
    now_s = service.clock.now_ms / 1000
    claims = verifier.verify(tokens.access_token, now_s, tokens_valid_from=lambda user: 0)
    assert (claims.user, claims.role) == ("ada", "member")
    await service.nobody.RefreshSession(refresh_token=tokens.refresh_token)


async def test_the_same_identity_is_the_same_user_whatever_its_name(
    service: Service, issuer: FakeIssuer
) -> None:
    assert (await signed_in(service, issuer)).user.name == "ada"
    issuer.person["preferred_username"] = "countess"
    assert (await signed_in(service, issuer)).user.name == "ada"
    del issuer.person["preferred_username"]
    assert (await signed_in(service, issuer)).user.name == "ada"


async def test_another_identity_never_gets_an_existing_user(
    service: Service, issuer: FakeIssuer
) -> None:
    """Whoever may choose a name at the issuer could else become any user here."""
    await service.add_users("bob")
    await signed_in(service, issuer)
    for name in ("ada", "bob", "root", "ADA"):
        issuer.person = {"sub": "subject-2", "preferred_username": name}
        with pytest.raises(UserExists):
            await signed_in(service, issuer)


async def test_a_person_without_a_password_is_bound_at_the_first_sign_in(
    service: Service, issuer: FakeIssuer
) -> None:
    await service.admin.CreateUser(name="ada", role=pb.ACCESS_ROLE_ADMIN, team="blue")
    user = (await signed_in(service, issuer)).user
    assert (user.role, user.team) == (pb.ACCESS_ROLE_ADMIN, "blue")
    issuer.person["sub"] = "subject-2"
    with pytest.raises(UserExists):
        await signed_in(service, issuer)


async def test_a_service_account_is_never_bound(service: Service, issuer: FakeIssuer) -> None:
    await service.admin.CreateUser(name="ada", kind=pb.USER_KIND_SERVICE_ACCOUNT)
    with pytest.raises(UserExists):
        await signed_in(service, issuer)


async def test_without_approval_a_new_user_waits(
    services: Services, issuer: FakeIssuer, tmp_path: Path
) -> None:
    service = await started(services, issuer, tmp_path, oidc_approve=False)
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="approval"):
            await signed_in(service, issuer)
    assert (await service.admin.GetUser(name="ada")).user.state == pb.USER_STATE_PENDING
    await service.admin.UpdateUser(name="ada", state=pb.USER_STATE_ACTIVE)
    assert (await signed_in(service, issuer)).user.name == "ada"
    await service.admin.UpdateUser(name="ada", state=pb.USER_STATE_DISABLED)
    with pytest.raises(Unauthenticated, match="disabled"):
        await signed_in(service, issuer)
    actions = [entry.action for entry in (await service.admin.ListAuditEntries()).entries]
    assert actions.count("sign_in.refused") == 3
    assert actions.count("user.signed_up") == 1


async def test_the_first_user_is_no_user_of_the_issuer(
    services: Services, issuer: FakeIssuer, tmp_path: Path
) -> None:
    service, _ = await services.start(**settings(issuer, tmp_path))
    issuer.clock = lambda: service.clock.now_ms / 1000
    with pytest.raises(IllegalState, match="first user must be an admin"):
        await signed_in(service, issuer)
    assert not (await service.nobody.GetSignInOptions()).has_users


@pytest.mark.parametrize(
    ("person", "claim", "name"),
    [
        ({"preferred_username": "Ada.Lovelace@Example.org"}, "", "ada.lovelace@example.org"),
        ({"email": "ada@example.org", "email_verified": True}, "email", "ada@example.org"),
        ({"email": "ada@example.org", "email_verified": False}, "email", None),
        ({"email": "ada@example.org", "email_verified": "true"}, "email", None),
        ({"email": "ada@example.org"}, "email", None),
        ({}, "", None),
        ({"preferred_username": "Ada Lovelace"}, "", None),
        ({"preferred_username": ""}, "", None),
        ({"preferred_username": ["ada"]}, "", None),
        ({"preferred_username": "x" * 65}, "", None),
        ({"preferred_username": "ada\0"}, "", None),
    ],
)
async def test_the_name_of_a_new_user(
    services: Services,
    issuer: FakeIssuer,
    tmp_path: Path,
    person: dict[str, Any],
    claim: str,
    name: str | None,
) -> None:
    changes = {"oidc_name_claim": claim} if claim else {}
    service = await started(services, issuer, tmp_path, **changes)
    issuer.person = {"sub": "subject-1", **person}
    if name:
        assert (await signed_in(service, issuer)).user.name == name
    else:
        with pytest.raises(PermissionDenied):
            await signed_in(service, issuer)


@pytest.mark.parametrize(
    "redirect_uri", ["https://evil.example/", "http://localhost.evil.example/", "http://x/\0"]
)
async def test_a_redirect_to_elsewhere_is_refused(
    service: Service, issuer: FakeIssuer, redirect_uri: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await service.nobody.BeginOidcSignIn(redirect_uri=redirect_uri)
    assert refused.value.field == "redirect_uri"
    assert issuer.requests == []


async def test_a_state_works_once(service: Service, issuer: FakeIssuer) -> None:
    back = issuer.browse((await begun(service)).authorization_url)
    await service.nobody.CompleteOidcSignIn(**back)
    with pytest.raises(Unauthenticated, match="begin again"):
        await service.nobody.CompleteOidcSignIn(**back)


async def test_a_state_works_once_even_if_the_code_was_wrong(
    service: Service, issuer: FakeIssuer
) -> None:
    back = issuer.browse((await begun(service)).authorization_url)
    with pytest.raises(Unauthenticated, match="refused the code"):
        await service.nobody.CompleteOidcSignIn(state=back["state"], code="guessed")
    with pytest.raises(Unauthenticated, match="begin again"):
        await service.nobody.CompleteOidcSignIn(**back)


async def test_a_state_expires(service: Service, issuer: FakeIssuer) -> None:
    back = issuer.browse((await begun(service)).authorization_url)
    service.clock.advance(PENDING_S)
    with pytest.raises(Unauthenticated, match="begin again"):
        await service.nobody.CompleteOidcSignIn(**back)


@pytest.mark.parametrize("state", ["x", "\0", "a" * 512])
async def test_an_unknown_state_reaches_no_issuer(
    service: Service, issuer: FakeIssuer, state: str
) -> None:
    with pytest.raises(Unauthenticated, match="begin again"):
        await service.nobody.CompleteOidcSignIn(state=state, code="code-0")
    assert issuer.requests == []


async def test_a_code_of_another_sign_in_is_refused(service: Service, issuer: FakeIssuer) -> None:
    """A code that an attacker injects was made for another code verifier and nonce."""
    own = issuer.browse((await begun(service)).authorization_url)
    others = issuer.browse((await begun(service)).authorization_url)
    with pytest.raises(Unauthenticated, match="refused the code"):
        await service.nobody.CompleteOidcSignIn(state=own["state"], code=others["code"])


async def test_a_sign_in_begins_at_one_instance_and_ends_at_another(
    services: Services, issuer: FakeIssuer, tmp_path: Path
) -> None:
    one = await started(services, issuer, tmp_path)
    other, _ = await services.start(**settings(issuer, tmp_path))
    back = issuer.browse((await begun(one)).authorization_url)
    assert (await other.nobody.CompleteOidcSignIn(**back)).tokens.user.name == "ada"


WRONG_ID_TOKENS: dict[str, Misbehaviour] = {
    "wrong nonce": Misbehaviour(claims={"nonce": "another"}),
    "no nonce": Misbehaviour(claims={"nonce": None}),
    "nonce that is a number": Misbehaviour(claims={"nonce": 1}),
    "alg none": Misbehaviour(id_token=unsigned),
    "HS256 with the client's secret": Misbehaviour(id_token=hmac_signed),
    "another key": Misbehaviour(id_token=signed_by_another),
    "expired": Misbehaviour(claims={"exp": 1}),
    "no expiry": Misbehaviour(claims={"exp": None}),
    "expiry that is a text": Misbehaviour(claims={"exp": "9999999999"}),
    "issued in the future": Misbehaviour(claims={"iat": 9_999_999_999}),
    "not valid yet": Misbehaviour(claims={"nbf": 9_999_999_999}),
    "other audience": Misbehaviour(claims={"aud": "another"}),
    "no audience": Misbehaviour(claims={"aud": None}),
    "several audiences": Misbehaviour(claims={"aud": [CLIENT_ID, "another"]}),
    "issued to another client": Misbehaviour(claims={"azp": "another"}),
    "other issuer": Misbehaviour(claims={"iss": "https://issuer.example"}),
    "no issuer": Misbehaviour(claims={"iss": None}),
    "no subject": Misbehaviour(claims={"sub": None}),
    "empty subject": Misbehaviour(claims={"sub": ""}),
    "subject that is a number": Misbehaviour(claims={"sub": 7}),
    "long subject": Misbehaviour(claims={"sub": "x" * 256}),
    "unknown key": Misbehaviour(header={"kid": "r9"}),
    "critical header": Misbehaviour(header={"crit": ["exp"], "exp": 1}),
    "no JWT": Misbehaviour(id_token=lambda claims: "x"),
    "too large": Misbehaviour(claims={"padding": "x" * 70_000}),
}


@pytest.mark.parametrize("wrong", WRONG_ID_TOKENS)
async def test_a_wrong_id_token_signs_nobody_in(
    sqlite_services: Services, issuer: FakeIssuer, tmp_path: Path, wrong: str
) -> None:
    service = await started(sqlite_services, issuer, tmp_path)
    issuer.wrong = WRONG_ID_TOKENS[wrong]
    with pytest.raises(Unauthenticated):
        await signed_in(service, issuer)
    assert [user.name for user in (await service.admin.ListUsers()).users] == ["root"]
    issuer.wrong = Misbehaviour()
    assert (await signed_in(service, issuer)).user.name == "ada"


WRONG_ANSWERS: dict[str, tuple[Misbehaviour, type[MeshError]]] = {
    "server error": (Misbehaviour(status=500), IssuerUnavailable),
    "redirect": (Misbehaviour(redirect=True), IssuerUnavailable),
    "slow": (Misbehaviour(delay_s=30), IssuerUnavailable),
    "too large": (Misbehaviour(padding_bytes=2_000_000), IssuerUnavailable),
    "document of another issuer": (
        Misbehaviour(discovery={"issuer": "https://issuer.example"}),
        IllegalState,
    ),
    "no token endpoint": (Misbehaviour(discovery={"token_endpoint": None}), IssuerUnavailable),
    "plain HTTP elsewhere": (
        Misbehaviour(discovery={"token_endpoint": "http://issuer.example/token"}),
        IssuerUnavailable,
    ),
    "no keys": (Misbehaviour(keys_answer={"keys": 1}), IssuerUnavailable),
    "keys that are a list": (Misbehaviour(keys_answer=["r1"]), IssuerUnavailable),
    "broken key": (
        Misbehaviour(keys_answer={"keys": [{"kid": "r1", "kty": "RSA"}, 7]}),
        Unauthenticated,
    ),
    "no ID token": (Misbehaviour(id_token=lambda claims: None), IssuerUnavailable),
    "ID token that is a number": (Misbehaviour(id_token=lambda claims: 7), IssuerUnavailable),
    "answer that is a list": (Misbehaviour(token_answer=json_text([1])), IssuerUnavailable),
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
async def test_an_issuer_that_misbehaves_gives_a_clear_error(
    sqlite_services: Services, issuer: FakeIssuer, tmp_path: Path, wrong: str
) -> None:
    service = await started(sqlite_services, issuer, tmp_path, oidc_timeout_s=0.5)
    issuer.wrong, error = WRONG_ANSWERS[wrong]
    with pytest.raises(error) as refused:
        await signed_in(service, issuer)
    assert CLIENT_SECRET not in refused.value.message


async def test_an_issuer_that_cannot_be_reached_is_unavailable_until_it_is_back(
    sqlite_services: Services, issuer: FakeIssuer, tmp_path: Path
) -> None:
    async with fake_issuer() as gone:
        pass
    service = await started(sqlite_services, gone, tmp_path)
    with pytest.raises(IssuerUnavailable, match="cannot be reached"):
        await begun(service)
    assert (await service.nobody.SignIn(name="root", password=PASSWORD)).tokens.access_token


async def test_an_unknown_key_is_looked_for_once_in_a_while(
    service: Service, issuer: FakeIssuer
) -> None:
    """Anybody can make up a token; that must not become a request to the issuer each time."""
    await signed_in(service, issuer)
    issuer.keys = [IssuerKey.es256("e2")]
    with pytest.raises(Unauthenticated, match="does not publish"):
        await signed_in(service, issuer)
    assert issuer.requests.count("/keys") == 1


async def test_keys_of_the_issuer_rotate(
    database: DatabaseUrl, issuer: FakeIssuer, tmp_path: Path
) -> None:
    async with sign_in_rig(database, tmp_path) as rig:
        await rig.add_user("root")
        issuer.clock = lambda: rig.clock.now_s
        secret_file = tmp_path / "client.secret"
        secret_file.write_text(CLIENT_SECRET)
        http = HttpIssuer(
            issuer.url, CLIENT_ID, secret_file, timeout_s=5, monotonic=lambda: rig.clock.now_s
        )
        identities = Identities(rig.database, name_claim="preferred_username", approve=True)
        client = OidcClient(
            issuer=issuer.url, client_id=CLIENT_ID, redirect_uris=("http://localhost",)
        )
        oidc = OidcSignIn(rig.database, rig.sessions, identities, http, client)
        for key in (IssuerKey.es256("e2"), IssuerKey.rs256("r3"), IssuerKey.es256("e4")):
            issuer.keys = [issuer.keys[-1], key]
            back = issuer.browse((await oidc.begin(REDIRECT, "10.0.0.1")).url)
            assert (await oidc.complete(back["state"], back["code"])).user.name == "ada"
            rig.clock.turn(60)
        assert issuer.requests.count("/keys") == 3
        await http.close()


async def test_what_the_issuer_publishes_is_fetched_once(
    service: Service, issuer: FakeIssuer
) -> None:
    for _ in range(5):
        await signed_in(service, issuer)
    assert issuer.requests.count("/.well-known/openid-configuration") == 1
    assert issuer.requests.count("/keys") == 1


async def test_a_secret_is_sent_in_the_header_unless_the_issuer_reads_only_the_body(
    services: Services, issuer: FakeIssuer, tmp_path: Path
) -> None:
    service = await started(services, issuer, tmp_path)
    await signed_in(service, issuer)
    assert issuer.authorization[0].startswith("Basic ")
    methods = ["client_secret_post"]
    issuer.wrong.discovery = {"token_endpoint_auth_methods_supported": methods}
    other, _ = await services.start(**settings(issuer, tmp_path))
    await signed_in(other, issuer)
    assert issuer.authorization[1] == ""


@pytest.mark.parametrize("content", ["", "another secret", None])
async def test_a_wrong_secret_is_our_fault(
    service: Service, issuer: FakeIssuer, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "client.secret"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(IllegalState, match="oidc_client_secret_file") as refused:
        await signed_in(service, issuer)
    assert content is None or not content or content not in refused.value.message
    path.write_text(CLIENT_SECRET)
    assert (await signed_in(service, issuer)).user.name == "ada"


async def test_one_host_begins_a_bounded_number_of_sign_ins(
    sqlite_services: Services, issuer: FakeIssuer, tmp_path: Path
) -> None:
    service = await started(sqlite_services, issuer, tmp_path)
    for _ in range(BEGUN_BY_HOST.free):
        await begun(service)
    with pytest.raises(TooManyRequests) as refused:
        await begun(service)
    assert refused.value.retry_delay_s


async def test_without_an_issuer_the_methods_say_so(services: Services) -> None:
    service, _ = await services.start()
    with pytest.raises(IllegalState, match="oidc_issuer"):
        await begun(service)
    with pytest.raises(IllegalState, match="oidc_issuer"):
        await service.nobody.CompleteOidcSignIn(state="x", code="y")
    assert (await service.nobody.GetSignInOptions()).oidc_issuer == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"oidc_issuer": "http://issuer.example"}, "oidc_issuer must be an https URL"),
        ({"oidc_client_id": ""}, "needs oidc_client_id"),
        ({"oidc_redirect_uris": ()}, "needs oidc_redirect_uris"),
        ({"oidc_redirect_uris": ("http://mesh.example",)}, "http://mesh.example among"),
    ],
)
async def test_wrong_settings_stop_the_start(
    sqlite_services: Services,
    issuer: FakeIssuer,
    tmp_path: Path,
    changes: dict[str, Any],
    told: str,
) -> None:
    with pytest.raises(IllegalState, match=told):
        await sqlite_services.start(**settings(issuer, tmp_path, **changes))


async def test_nothing_secret_is_stored_or_logged(
    service: Service, issuer: FakeIssuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pending = await begun(service)
    back = issuer.browse((await begun(service)).authorization_url)
    tokens = (await service.nobody.CompleteOidcSignIn(**back)).tokens
    stored = caplog.text
    async with service.access.database.transactions.write() as session:
        for table in ("users", "sessions", "signing_keys", "oidc_states", "audit_entries"):
            rows: Sequence[Any] = await session.fetch(f"SELECT * FROM {table}")
            stored += str([tuple(row) for row in rows])
    query = parse_qs(urlsplit(pending.authorization_url).query)
    secrets = [pending.state, query["nonce"][0], back["state"], back["code"], CLIENT_SECRET]
    secrets += [tokens.access_token, tokens.refresh_token]
    assert "subject-1" in stored
    assert [secret for secret in secrets if secret in stored] == []

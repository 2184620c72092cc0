"""What a gateway accepts as an access token, and a table of attacks."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448

from mlxmesh_shared.access_tokens import (
    MAX_CLOCK_SKEW_S,
    MAX_TOKEN_BYTES,
    AccessClaims,
    AccessTokenVerifier,
    may_be_access_token,
)
from mlxmesh_shared.errors import Unauthenticated
from tests.fakes.access_tokens import NOW_S, TokenSigner, claims, encoded, json_part

SIGNER = TokenSigner()
OTHER = TokenSigner()
VERIFIER = AccessTokenVerifier(SIGNER.jwks_json)


def verified(
    token: str, now_s: float = NOW_S, verifier: AccessTokenVerifier = VERIFIER
) -> AccessClaims:
    return verifier.verify(token, now_s, tokens_valid_from=lambda user: 0)


def test_a_valid_token_tells_who_its_bearer_is() -> None:
    told = verified(SIGNER.token(claims(role="admin", team="blue")))
    assert (told.user, told.role, told.team) == ("ada", "admin", "blue")
    assert (told.session_id, told.token_id) == ("s_1", "t_1")
    assert (told.issued_s, told.valid_from_s, told.expires_s) == (NOW_S, NOW_S, NOW_S + 600)


def test_tokens_of_each_published_key_are_valid() -> None:
    newer = TokenSigner("k2")
    verifier = AccessTokenVerifier(json.dumps({"keys": [SIGNER.jwk, newer.jwk]}))
    assert verified(SIGNER.token(), verifier=verifier) == verified(newer.token(), verifier=verifier)


def test_an_unknown_key_is_told_apart_so_that_a_gateway_can_wait_for_newer_ones() -> None:
    assert VERIFIER.knows_key(SIGNER.token())
    assert not VERIFIER.knows_key(TokenSigner("k2").token())
    assert not AccessTokenVerifier("").knows_key(SIGNER.token())


@pytest.mark.parametrize("age_s", [0, 599, 600 + MAX_CLOCK_SKEW_S - 0.5, -MAX_CLOCK_SKEW_S])
def test_clocks_may_differ_a_little(age_s: float) -> None:
    assert verified(SIGNER.token(), NOW_S + age_s).user == "ada"


def test_an_expired_token_says_what_to_do() -> None:
    with pytest.raises(Unauthenticated, match="refresh the session"):
        verified(SIGNER.token(), NOW_S + 600 + MAX_CLOCK_SKEW_S)


def test_a_token_from_the_future_says_what_to_do() -> None:
    with pytest.raises(Unauthenticated, match="compare the hosts' clocks"):
        verified(SIGNER.token(), NOW_S - MAX_CLOCK_SKEW_S - 0.5)


@pytest.mark.parametrize(("valid_from_s", "works"), [(0, 1), (NOW_S, 1), (NOW_S + 0.001, 0)])
def test_tokens_from_before_a_users_sessions_ended_are_refused(
    valid_from_s: float, works: bool
) -> None:
    asked: list[str] = []

    def tokens_valid_from(user: str) -> float:
        asked.append(user)
        return valid_from_s

    if works:
        assert VERIFIER.verify(SIGNER.token(), NOW_S, tokens_valid_from=tokens_valid_from)
    else:
        with pytest.raises(Unauthenticated, match="session has ended"):
            VERIFIER.verify(SIGNER.token(), NOW_S, tokens_valid_from=tokens_valid_from)
    assert asked == ["ada"]


def test_tokens_of_users_that_are_unknown_are_refused() -> None:
    with pytest.raises(Unauthenticated, match="session has ended"):
        VERIFIER.verify(SIGNER.token(), NOW_S, tokens_valid_from=lambda user: None)


def with_header(**changes: object) -> str:
    header = {name: value for name, value in (SIGNER.header | changes).items() if value is not None}
    return SIGNER.token(header=header)


def with_claims(**changes: object) -> str:
    return SIGNER.token(claims(**changes))


def hmac_signed(algorithm: str, secret: bytes) -> str:
    """Algorithm confusion: the public key, which everybody knows, as the secret of an HMAC."""
    text = f"{json_part(SIGNER.header | {'alg': algorithm})}.{json_part(claims())}"
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def es256_signed() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    text = f"{json_part(SIGNER.header | {'alg': 'ES256'})}.{json_part(claims())}"
    return f"{text}.{encoded(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))}"


def ed448_signed() -> str:
    text = f"{json_part(SIGNER.header)}.{json_part(claims())}"
    return f"{text}.{encoded(ed448.Ed448PrivateKey.generate().sign(text.encode()))}"


def parts() -> list[str]:
    return SIGNER.token().split(".")


def with_other_payload() -> str:
    header, _, signature = parts()
    return f"{header}.{json_part(claims(role='admin'))}.{signature}"


def with_changed_signature() -> str:
    header, payload, signature = parts()
    return f"{header}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def with_raw_claims(payload: str) -> str:
    return SIGNER.signed(json_part(SIGNER.header), encoded(payload.encode()))


def with_raw_header(header: str) -> str:
    return SIGNER.signed(encoded(header.encode()), json_part(claims()))


ATTACKS = {
    "empty": "",
    "no JWT": "mlxmesh_0123456789",
    "two parts": ".".join(parts()[:2]),
    "four parts": SIGNER.token() + ".AAAA",
    "encrypted form": SIGNER.token() + ".AAAA.AAAA",
    "no signature": ".".join(parts()[:2]) + ".",
    "changed signature": with_changed_signature(),
    "changed payload": with_other_payload(),
    "signed with another key under a known kid": OTHER.token(),
    "unknown kid": TokenSigner("k2").token(),
    "kid that is a path": with_header(kid="../../etc/passwd"),
    "kid that is SQL": with_header(kid="k1' OR '1'='1"),
    "kid that is a number": with_header(kid=1),
    "kid that is a list": with_header(kid=["k1"]),
    "no kid": with_header(kid=None),
    "alg none": with_header(alg="none"),
    "alg None, no signature": f"{json_part(SIGNER.header | {'alg': 'None'})}.{parts()[1]}.",
    "alg none, no signature": f"{json_part(SIGNER.header | {'alg': 'none'})}.{parts()[1]}.",
    "alg in another case": with_header(alg="eddsa"),
    "alg that is a list": with_header(alg=["EdDSA"]),
    "alg Ed25519": with_header(alg="Ed25519"),
    "no alg": with_header(alg=None),
    "HS256 with the public key": hmac_signed("HS256", SIGNER.public_bytes),
    "HS256 with the key set": hmac_signed("HS256", SIGNER.jwks_json.encode()),
    "HMAC that says EdDSA": hmac_signed("EdDSA", SIGNER.public_bytes),
    "ES256": es256_signed(),
    "Ed448": ed448_signed(),
    "a key of its own in the header": OTHER.token(header=OTHER.header | {"jwk": OTHER.jwk}),
    "a key set's address in the header": with_header(jku="https://attacker.example/jwks"),
    "a certificate's address in the header": with_header(x5u="https://attacker.example/cert"),
    "critical header": with_header(crit=["b64"], b64=False),
    "unknown critical header": with_header(crit=["new"], new=1),
    "compressed": with_header(zip="DEF"),
    "an ID token": with_header(typ="JWT"),
    "no typ": with_header(typ=None),
    "header that is a list": with_raw_header("[1]"),
    "header nested too deep": with_raw_header('{"alg":' + "[" * 2500),
    "header that is no JSON": with_raw_header("{"),
    "header that is no UTF-8": SIGNER.signed(encoded(b"\xff\xfe"), json_part(claims())),
    "claims that are a list": with_raw_claims("[1]"),
    "claims that are no JSON": with_raw_claims("{"),
    "claims nested too deep": with_raw_claims('{"x":' + "[" * 2500),
    "padding": SIGNER.token() + "==",
    "line end": SIGNER.token() + "\n",
    "leading space": " " + SIGNER.token(),
    "not ASCII": SIGNER.token() + "é",
    "NUL": SIGNER.token() + "\0",
    "lone surrogate": SIGNER.token() + "\ud800",
    "too large": with_claims(team="x" * MAX_TOKEN_BYTES),
    "much too large": "eyJ" + "A" * 10_000_000 + ".e30.A",
    "other issuer": with_claims(iss="https://issuer.example"),
    "no issuer": with_claims(iss=None),
    "other audience": with_claims(aud="another"),
    "several audiences": with_claims(aud=["mlxmesh", "another"]),
    "no audience": with_claims(aud=None),
    "no user": with_claims(sub=None),
    "empty user": with_claims(sub=""),
    "user that is a number": with_claims(sub=1),
    "no session": with_claims(sid=None),
    "no id": with_claims(jti=None),
    "expired": with_claims(exp=NOW_S - MAX_CLOCK_SKEW_S),
    "no expiry": with_claims(exp=None),
    "expiry that is a text": with_claims(exp=str(NOW_S + 600)),
    "expiry that is true": with_claims(exp=True),
    "expiry that is NaN": with_claims(exp=float("nan")),
    "endless expiry": with_claims(exp=float("inf")),
    "expiry with 2,000 digits": with_raw_claims(
        json.dumps(claims())[:-1] + ',"exp":' + "9" * 2000 + "}"
    ),
    "not valid yet": with_claims(nbf=NOW_S + MAX_CLOCK_SKEW_S + 1),
    "issued in the future": with_claims(iat=NOW_S + MAX_CLOCK_SKEW_S + 1),
    "no time of issue": with_claims(iat=None),
    "no beginning": with_claims(nbf=None),
    "unknown role": with_claims(role="gateway"),
    "role in another case": with_claims(role="Admin"),
    "no role": with_claims(role=None),
    "no team": with_claims(team=None),
    "further claim": with_claims(scope="everything"),
    "claim under its name in Python": with_claims(sub=None, user="ada"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_is_refused(attack: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        verified(ATTACKS[attack])
    error = refused.value
    assert ATTACKS[attack][:20] not in error.message or not ATTACKS[attack]
    assert (error.__cause__, error.__suppress_context__) in {(None, True), (None, False)}


def test_without_keys_nothing_is_valid() -> None:
    with pytest.raises(Unauthenticated):
        verified(SIGNER.token(), verifier=AccessTokenVerifier(""))
    with pytest.raises(Unauthenticated):
        verified(SIGNER.token(), verifier=AccessTokenVerifier('{"keys": []}'))


def test_only_ed25519_keys_of_a_set_are_used() -> None:
    secret = {"kty": "oct", "kid": "k2", "k": encoded(b"0" * 32)}
    verifier = AccessTokenVerifier(json.dumps({"keys": [secret, SIGNER.jwk]}))
    assert verified(SIGNER.token(), verifier=verifier).user == "ada"
    assert not verifier.knows_key(TokenSigner("k2").token())


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"keys": 1}',
        '{"keys": [1]}',
        '{"keys": [{"kid": "k1"}]}',
        '{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k1"}]}',
        '{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": "AA"}]}',
        json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": encoded(b"0" * 32)}]}),
    ],
)
def test_a_text_that_is_no_key_set_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a JSON Web Key Set"):
        AccessTokenVerifier(text)


def test_tokens_are_told_from_api_keys() -> None:
    assert may_be_access_token(SIGNER.token())
    assert not may_be_access_token("mlxmesh_0123456789abcdef")
    assert not may_be_access_token("eyJhbGciOiJub25lIn0")


def test_the_library_is_imported_when_the_first_verifier_is_made() -> None:
    """A laptop without users pays nothing for it."""
    check = "assert not {'jwt', 'cryptography'} & {*sys.modules}"
    check = f"import sys, mlxmesh_shared.access_tokens; {check}"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)

"""Attack row 29 (forged and confused tokens) and the first half of row 30 (tokens that should have ended)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from guard.identity import IdentityError, Verifier
from protocols.contract import Principal

NOW = 1_800_000_000.0


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(header: Any, claims: Any, signature: bytes = b"x") -> str:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    return ".".join([*map(b64, parts), b64(signature)])


@pytest.fixture
def verify(provider, clock, settings):
    def run(token: str, *, blocked: Any = None, **changes: Any) -> Principal:
        verifier = Verifier([settings(**changes)], fetch=provider.fetch, clock=clock, blocked=blocked)
        return asyncio.run(verifier.verify(token))

    return run


@pytest.fixture
def refused(verify):
    def run(token: str, **changes: Any) -> IdentityError:
        with pytest.raises(IdentityError) as caught:
            verify(token, **changes)
        assert len(token) < 12 or token not in str(caught.value) + caught.value.detail
        return caught.value

    return run


def test_a_good_token_names_its_principal(verify, provider):
    principal = verify(provider.token())
    assert principal == Principal(
        subject="ci-job@shop",
        issuer="https://idp.example",
        groups=frozenset({"agents"}),
        attributes={},
        expires_at=NOW + 600,
        token_id="token-1",
    )


def test_each_pinned_algorithm_verifies_with_its_own_kind_of_key(verify, provider, ed_key):
    provider.keys["ed-1"] = ed_key
    algorithms = ("RS256", "RS512", "PS256", "ES256", "EdDSA")
    for algorithm in algorithms:
        kid = {"E": "ec-1", "R": "rsa-1", "P": "rsa-1"}[algorithm[0]] if algorithm != "EdDSA" else "ed-1"
        assert verify(provider.token(kid=kid, algorithm=algorithm), algorithms=algorithms).subject == "ci-job@shop"


# -- row 29: the signature


@pytest.mark.parametrize("algorithm", ["none", "nOnE", "NONE", ""])
def test_row_29_alg_none(refused, provider, algorithm):
    refused(compact({"alg": algorithm, "kid": "rsa-1"}, provider.claims()))


@pytest.mark.parametrize("key_format", ["pem", "der", "jwk"])
def test_row_29_public_key_used_as_hmac_secret(refused, provider, key_format):
    public = provider.keys["rsa-1"].public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    secret = {
        "pem": public.public_bytes(serialization.Encoding.PEM, spki),
        "der": public.public_bytes(serialization.Encoding.DER, spki),
        "jwk": json.dumps(provider.jwk("rsa-1")).encode(),
    }[key_format]
    head, body = (b64(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": "rsa-1"}, provider.claims()))
    signature = hmac.digest(secret, f"{head}.{body}".encode(), hashlib.sha256)
    assert "not accepted" in str(refused(f"{head}.{body}.{b64(signature)}"))


@pytest.mark.parametrize("algorithm", ["HS256", "none", "RS257"])
def test_row_29_only_asymmetric_algorithms_can_be_configured(provider, settings, algorithm):
    with pytest.raises(ValueError, match="asymmetric"):
        Verifier([settings(algorithms=("RS256", algorithm))], fetch=provider.fetch)


def test_row_29_an_algorithm_that_is_not_pinned_for_this_issuer(refused, provider):
    assert "not accepted" in str(refused(provider.token(kid="ec-1", algorithm="ES256"), algorithms=("RS256",)))


def test_row_29_key_type_must_match_the_algorithm(refused, provider):
    token = provider.token(kid="ec-1", algorithm="ES256")
    head = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    _, body, signature = token.split(".")
    mixed = ".".join([b64(json.dumps({**head, "kid": "rsa-1"}).encode()), body, signature])
    assert "signature" in str(refused(mixed))


def test_row_29_key_bound_to_one_algorithm_serves_no_other(refused, provider):
    provider.extra_keys = [{**provider.jwk("rsa-1"), "alg": "RS512"}]
    token = provider.token(algorithm="RS256")
    del provider.keys["rsa-1"]
    assert "signature" in str(refused(token))


def test_row_29_embedded_and_referenced_keys_are_never_used(refused, provider):
    mine = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(mine.public_key(), as_dict=True)
    for header in (
        {"jwk": jwk},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/cert"},
        {"x5c": ["AA=="]},
    ):
        token = jwt.encode(provider.claims(), mine, algorithm="RS256", headers={"kid": "rsa-1", **header})
        assert "signature" in str(refused(token))
    assert not [url for url in provider.fetched if "evil" in url]


@pytest.mark.parametrize("kid", ["../../dev/null", "' UNION SELECT 'k", "rsa-1\x00", "|id", "RSA-1"])
def test_row_29_kid_injection_is_only_an_unknown_key(refused, provider, kid):
    assert "signature" in str(refused(provider.token(headers={"kid": kid})))


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"zip": "DEF"}, {"enc": "A256GCM"}]
)
def test_row_29_extensions_that_change_the_meaning_are_refused(refused, provider, header):
    good = provider.token()
    head = json.loads(base64.urlsafe_b64decode(good.split(".")[0] + "=="))
    _, body, signature = good.split(".")
    changed = ".".join([b64(json.dumps({**head, **header}).encode()), body, signature])
    assert "extension" in str(refused(changed))


def test_row_29_one_flipped_bit_anywhere_is_refused(refused, provider):
    token = provider.token(kid="ec-1", algorithm="ES256")
    for index in range(0, len(token), 7):
        flipped = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        refused(flipped)


def test_row_29_keys_of_one_issuer_never_verify_for_another(provider, clock, settings):
    other = type(provider)("https://other.example")
    other.keys = {"rsa-1": rsa.generate_private_key(public_exponent=65537, key_size=2048)}

    async def fetch(url: str, ca: Any) -> bytes:
        return await (other if "other" in url else provider).fetch(url, ca)

    verifier = Verifier([settings(), settings(issuer="https://other.example")], fetch=fetch, clock=clock)
    assert asyncio.run(verifier.verify(other.token())).issuer == "https://other.example"
    with pytest.raises(IdentityError, match="signature"):
        asyncio.run(verifier.verify(other.token(iss="https://idp.example")))


def test_row_29_unsigned_reading_and_signed_reading_cannot_differ(refused, provider):
    token = provider.token()
    head, body, signature = token.split(".")
    for other in (body + "=", body + "A", body[:-1] + chr(ord(body[-1]) + 1)):
        refused(f"{head}.{other}.{signature}")


# -- row 29: the claims


@pytest.mark.parametrize(
    "issuer",
    ["https://idp.example/", "https://IDP.example", "https://evil.example", "", None, 7, ["https://idp.example"]],
)
def test_row_29_issuer_is_exact(refused, provider, issuer):
    assert "issuer" in str(refused(compact({"alg": "RS256", "kid": "rsa-1"}, provider.claims(iss=issuer))))


@pytest.mark.parametrize(
    "audience",
    [
        "sluicegate2",
        "sluice",
        "Sluicegate",
        "",
        [],
        ["other"],
        [["sluicegate"]],
        ["sluicegate", 7],
        {"sluicegate": 1},
        7,
        None,
    ],
)
def test_row_29_audience_is_exact(refused, provider, audience):
    token = jwt.PyJWS().encode(
        json.dumps(provider.claims(aud=audience)).encode(), provider.keys["rsa-1"], "RS256", headers={"kid": "rsa-1"}
    )
    assert "for" in str(refused(token))


def test_an_audience_among_others_is_fine(verify, provider):
    assert verify(provider.token(aud=["account", "sluicegate"])).subject == "ci-job@shop"


def test_row_29_authorized_party_is_exact_where_configured(verify, refused, provider):
    assert verify(provider.token(azp="ci"), azp="ci").subject
    refused(provider.token(azp="other"), azp="ci")
    refused(provider.token(), azp="ci")


def signed(provider, claims: bytes) -> str:
    return jwt.PyJWS().encode(claims, provider.keys["rsa-1"], "RS256", headers={"kid": "rsa-1"})


@pytest.mark.parametrize("exp", ["1800000600", None, True, [1800000600], -1, 1e30])
def test_row_29_expiry_must_be_there_and_a_number(refused, provider, exp):
    claims = provider.claims() | {"exp": exp}
    if exp is None:
        del claims["exp"]
    refused(signed(provider, json.dumps(claims).encode()))


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e999", "9" * 5000])
def test_row_29_expiry_that_is_no_finite_number(refused, provider, literal):
    claims = json.dumps(provider.claims()).replace(str(int(NOW) + 600), literal)
    refused(signed(provider, claims.encode()))


def test_row_29_one_token_has_one_spelling(refused, provider):
    """The last character of a signature holds bits that no byte has: another one there is another text, same bytes."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = provider.token()
    again = token[:-1] + letters[letters.index(token[-1]) ^ 1]
    assert refused(again).detail == "base64url is not canonical"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_row_29_what_json_does_not_know_is_refused(refused, provider, number):
    claims = json.dumps(provider.claims())[:-1] + f', "score": {number}}}'
    assert "not a token" in str(refused(signed(provider, claims.encode())))


def test_row_29_duplicate_claims_are_refused(refused, provider):
    claims = json.dumps(provider.claims())[:-1] + ', "sub": "admin"}'
    assert "not a token" in str(refused(signed(provider, claims.encode())))
    nested = json.dumps(provider.claims())[:-1] + ', "a": {"b": 1, "b": 2}}'
    refused(signed(provider, nested.encode()))


@pytest.mark.parametrize("claims", [b"[]", b"7", b"null", b'"x"', b"", b"{", b"\xff\xfe{}", b"[" * 12000])
def test_row_29_claims_that_are_no_object(refused, provider, claims):
    refused(signed(provider, claims))


@pytest.mark.parametrize("subject", ["", " ", None, 7, ["a"], "a\nb", "a\x00", "x" * 513, "\ud800"])
def test_row_29_subject_is_a_short_printable_string(refused, provider, subject):
    claims = provider.claims() | {"sub": subject}
    if subject is None:
        del claims["sub"]
    assert "who it is for" in str(refused(signed(provider, json.dumps(claims).encode())))


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_row_29_times_in_the_future_have_bounded_leeway(verify, refused, provider, claim):
    assert verify(provider.token(**{claim: NOW + 29})).subject
    assert "clock" in str(refused(provider.token(**{claim: NOW + 31})))
    assert "clock" in str(refused(provider.token(**{claim: NOW + 2}), leeway=1))


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [True, "1800000600", [1800000600], -1])
def test_row_29_a_time_is_a_number(refused, provider, claim, value):
    error = refused(signed(provider, json.dumps(provider.claims() | {claim: value}).encode()))
    assert error.detail == f"claim `{claim}` is no time"


def test_row_29_leeway_cannot_be_configured_beyond_thirty_seconds(provider, settings):
    with pytest.raises(ValueError, match="leeway"):
        Verifier([settings(leeway=31)], fetch=provider.fetch)


def test_row_29_oversized_token_is_refused_before_it_is_read(refused, provider):
    assert "larger" in str(refused(provider.token(padding="x" * 16384)))


@pytest.mark.parametrize(
    "token", ["", "a", "a.b", "a.b.c.d", "..", "a.b.", "\u00e4.b.c", "hunter2", "a.b.c\n", "a b.c.d", "eyJ.eyJ.x"]
)
def test_what_is_no_token_is_told_to_send_one(refused, token):
    assert "send a signed token" in str(refused(token))


# -- tokens of the same issuer that were signed for something else


@pytest.mark.parametrize("kind", ["logout+jwt", "secevent+jwt", "dpop+jwt", "application/logout+jwt", "JWE"])
def test_row_29_a_token_of_another_type_is_refused(refused, provider, kind):
    assert "access token" in str(refused(provider.token(headers={"typ": kind})))


def test_row_29_a_logout_token_without_its_type_is_refused(refused, provider):
    events = {"http://schemas.openid.net/event/backchannel-logout": {}}
    assert "access token" in str(refused(provider.token(events=events)))


def test_row_29_at_jwt_must_be_a_real_access_token(verify, refused, provider):
    for kind in ("at+jwt", "application/at+jwt", "AT+JWT"):
        assert verify(provider.token(headers={"typ": kind}, client_id="ci")).subject
        refused(provider.token(headers={"typ": kind}))


def test_row_29_a_token_bound_to_a_key_is_no_bearer_token(refused, provider):
    assert "bound" in str(refused(provider.token(cnf={"jkt": "x"})))


def test_row_29_keycloak_refresh_tokens_open_nothing(verify, refused, provider):
    assert verify(provider.token(typ="Bearer"), preset="keycloak").subject
    for kind in ("Refresh", "Offline", "Logout", 7, ["Bearer"]):
        refused(provider.token(typ=kind), preset="keycloak")


# -- row 30: the end of a token


def test_row_30_an_expired_token_opens_nothing_not_even_within_the_leeway(verify, refused, provider, clock):
    token = provider.token()
    clock.now = NOW + 599.9
    assert verify(token).expires_at == NOW + 600
    clock.now = NOW + 612
    assert str(refused(token)) == "token expired 12 s ago; get a new one"


def test_row_30_recheck_ends_a_session_with_its_token(provider, clock, settings):
    verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
    principal = asyncio.run(verifier.verify(provider.token()))
    verifier.recheck(principal)
    clock.now = NOW + 600
    with pytest.raises(IdentityError, match="expired"):
        verifier.recheck(principal)


def test_session_end_duration_is_bounded_by_configuration(verify, provider, settings):
    assert verify(provider.token(), session_end="duration", session_max=3600).expires_at == NOW + 3600
    for wrong in ({"session_end": "never"}, {"session_max": float("inf")}, {"session_max": 0}):
        with pytest.raises(ValueError, match="session_"):
            Verifier([settings(**wrong)], fetch=provider.fetch)


def test_row_30_duration_does_not_revive_an_expired_token(refused, provider):
    refused(provider.token(exp=NOW - 1), session_end="duration")
    refused(provider.token(exp=NOW), session_end="duration")  # it has no leeway: the moment itself is too late


def test_row_30_containment_refuses_a_good_token(refused, provider):
    error = refused(
        provider.token(), blocked=lambda p: f"{p.subject} is contained" if p.subject == "ci-job@shop" else None
    )
    assert str(error) == "ci-job@shop is contained"
    assert error.subject == "ci-job@shop"


def test_a_containment_check_that_raises_refuses(refused, provider):
    def broken(_: Principal) -> None:
        raise OSError("database is gone")

    error = refused(provider.token(), blocked=broken)
    assert "cannot check" in str(error)
    assert "database" not in str(error)


def test_row_30_a_token_without_jti_has_one_name_however_its_signature_is_written(verify, provider):
    token = provider.token(kid="ec-1", algorithm="ES256", jti=None)
    signing_input, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    assert decode_dss_signature(encode_dss_signature(r, s)) == (r, s)
    twin = f"{signing_input}.{b64(r.to_bytes(32) + (order - s).to_bytes(32))}"
    assert twin != token
    first, second = verify(token), verify(twin)
    assert first.token_id == second.token_id
    assert first.token_id is not None
    assert first.token_id.startswith("sha256:")


def test_an_unusable_jti_becomes_a_digest(verify, provider):
    for jti in ("", "x" * 200, "a\nb", 7):
        claims = provider.claims() | {"jti": jti}
        assert verify(signed(provider, json.dumps(claims).encode())).token_id.startswith("sha256:")


def test_the_same_issuer_twice_is_a_configuration_error(provider, settings):
    with pytest.raises(ValueError, match="twice"):
        Verifier([settings(), settings(audience="b")], fetch=provider.fetch)


def test_a_curve_of_another_size_does_not_fit(refused, provider):
    provider.keys["ec-1"] = ec.generate_private_key(ec.SECP384R1())
    token = provider.token(kid="ec-1", algorithm="ES384")
    assert refused(token, algorithms=("ES256",))
    _, body, signature = token.split(".")
    assert refused(
        f"{b64(json.dumps({'alg': 'ES256', 'kid': 'ec-1'}).encode())}.{body}.{signature}", algorithms=("ES256",)
    )

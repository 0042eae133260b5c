"""The key cache: rotation, stale keys, and strangers who choose key ids."""

from __future__ import annotations

import asyncio
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from guard.identity import IdentityError, Verifier
from guard.identity.keys import MAX_STALE_S, MIN_INTERVAL_S, TTL_S, IssuerKeys, KeysError, fetch_document, parse_jwks
from guard.outbound import OutboundError
from scripts.support.issuer import Issuer


@pytest.fixture
def keys(provider, clock):
    return IssuerKeys(provider.issuer, None, None, provider.fetch, clock, lambda: 0.0)


def test_keys_are_found_by_discovery_and_read_once(provider, clock, settings):
    async def run():
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
        for _ in range(5):
            await verifier.verify(provider.token())

    asyncio.run(run())
    assert provider.fetched == ["https://idp.example/.well-known/openid-configuration", "https://idp.example/keys"]


def test_a_configured_jwks_uri_needs_no_discovery(provider, clock, settings):
    provider.documents["https://keys.example/set"] = provider.document("https://idp.example/keys")
    verifier = Verifier([settings(jwks_uri="https://keys.example/set")], fetch=provider.fetch, clock=clock)
    assert asyncio.run(verifier.verify(provider.token())).subject == "ci-job@shop"
    assert provider.fetched == ["https://keys.example/set"]


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"issuer": "https://evil.example", "jwks_uri": "https://idp.example/keys"}, "another issuer"),
        ({"issuer": "https://idp.example/", "jwks_uri": "https://idp.example/keys"}, "another issuer"),
        ({"issuer": "https://idp.example"}, "no jwks_uri"),
        ({"issuer": "https://idp.example", "jwks_uri": 7}, "no jwks_uri"),
        ({"issuer": "https://idp.example", "jwks_uri": "http://idp.example/keys"}, "plain http"),
        ({"issuer": "https://idp.example", "jwks_uri": "file:///etc/passwd"}, "https"),
        ({"issuer": "https://idp.example", "jwks_uri": "http://127.0.0.1:9200/_shutdown"}, "not https"),
        ({"issuer": "https://idp.example", "jwks_uri": "http://\x1b]0;x\x07idp.example/"}, "percent-encoded"),
        ([], "not usable"),
    ],
)
def test_a_discovery_document_that_lies_gives_no_keys(provider, keys, document, why):
    provider.documents["https://idp.example/.well-known/openid-configuration"] = json.dumps(document).encode()
    with pytest.raises(KeysError, match=why):
        asyncio.run(keys.candidates("rsa-1", "RS256"))


def test_a_clock_that_is_put_back_keeps_no_old_keys_alive(provider, clock):
    passed = [0.0]

    async def run():
        keys = IssuerKeys(provider.issuer, None, None, provider.fetch, clock, lambda: passed[0])
        await keys.candidates("rsa-1", "RS256")
        provider.fail = OutboundError("gone")
        clock.now -= 86400
        passed[0] += MIN_INTERVAL_S
        await keys.candidates("other", "RS256")  # asked for again: the interval is over, whatever the clock says
        assert keys.error == "gone"
        passed[0] += MAX_STALE_S
        with pytest.raises(KeysError):
            await keys.candidates("rsa-1", "RS256")

    asyncio.run(run())


def test_a_rotated_key_is_picked_up_and_the_old_one_refused(provider, clock, settings):
    async def run():
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
        old = provider.token()
        await verifier.verify(old)
        del provider.keys["rsa-1"]
        provider.keys["rsa-2"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        clock.now += MIN_INTERVAL_S
        assert (await verifier.verify(provider.token(kid="rsa-2"))).subject == "ci-job@shop"
        with pytest.raises(IdentityError):
            await verifier.verify(old)

    asyncio.run(run())


def test_strangers_with_unknown_key_ids_cause_one_refresh_per_interval(provider, clock, settings):
    async def run():
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
        await verifier.verify(provider.token())
        for index in range(200):
            with pytest.raises(IdentityError):
                await verifier.verify(provider.token(headers={"kid": f"x{index}"}))
        assert len(provider.fetched) == 2
        clock.now += MIN_INTERVAL_S
        tokens = [provider.token(headers={"kid": f"y{index}"}) for index in range(50)]
        answers = await asyncio.gather(*map(verifier.verify, tokens), return_exceptions=True)
        assert all(isinstance(answer, IdentityError) for answer in answers)
        assert len(provider.fetched) == 4  # one shared refresh: discovery and keys

    asyncio.run(run())


@pytest.mark.parametrize("eager", [False, True])
def test_an_issuer_that_is_down_serves_stale_keys_only_so_long(provider, keys, clock, eager):
    async def run():
        if eager:  # as under mitmproxy: a refresh may be over before anybody could wait for it
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        assert await keys.candidates("rsa-1", "RS256")
        provider.fail = OutboundError("idp.example did not answer within 5 s")
        clock.now += MAX_STALE_S
        await keys.refresh(force=True)
        assert keys.error == "idp.example did not answer within 5 s"
        assert await keys.candidates("rsa-1", "RS256")
        clock.now += 1
        with pytest.raises(KeysError, match="did not answer"):
            await keys.candidates("rsa-1", "RS256")
        provider.fail = None
        clock.now += MIN_INTERVAL_S
        assert await keys.candidates("rsa-1", "RS256")
        assert not keys.error

    asyncio.run(run())


def test_a_fetcher_that_throws_anything_only_grows_the_keys_older(provider, keys):
    async def run():
        provider.fail = ZeroDivisionError("secret in here")
        with pytest.raises(KeysError, match="ZeroDivisionError") as caught:
            await keys.candidates("rsa-1", "RS256")
        assert "secret" not in str(caught.value)

    asyncio.run(run())


def test_the_public_text_says_nothing_about_the_failure(provider, clock, settings):
    provider.fail = OutboundError("idp.example answered with status 500")
    verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
    with pytest.raises(IdentityError) as caught:
        asyncio.run(verifier.verify(provider.token()))
    assert "500" not in str(caught.value)
    assert "500" in caught.value.detail


def test_a_caller_that_gives_up_does_not_cancel_the_refresh_for_others(provider, clock):
    release = asyncio.Event()

    async def slow(url, ca):
        await release.wait()
        return await provider.fetch(url, ca)

    async def run():
        cache = IssuerKeys(provider.issuer, None, None, slow, clock)
        first = asyncio.create_task(cache.candidates("rsa-1", "RS256"))
        second = asyncio.create_task(cache.candidates("rsa-1", "RS256"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        release.set()
        assert await second
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(run())


def test_background_refresh_starts_and_stops(provider, clock, settings):
    async def run():
        verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
        await verifier.start()
        while verifier.status()[0]["keys_age"] is None:
            await asyncio.sleep(0)
        (status,) = verifier.status()
        assert (status["issuer"], status["keys_age"], status["error"]) == ("https://idp.example", 0.0, None)
        before = len(provider.fetched)
        await verifier.verify(provider.token())
        assert len(provider.fetched) == before
        await verifier.stop()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_stopping_in_the_middle_of_a_refresh_leaves_nothing_running(provider, clock, settings):
    async def never(url, ca):
        await asyncio.Event().wait()

    async def run():
        verifier = Verifier([settings()], fetch=never, clock=clock)
        await verifier.start()
        await asyncio.sleep(0.01)
        await verifier.stop()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_a_token_without_kid_is_tried_against_the_few_keys_that_fit(provider, clock, settings):
    provider.keys["rsa-2"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    token = jwt.encode(provider.claims(), provider.keys["rsa-2"], algorithm="RS256")
    verifier = Verifier([settings()], fetch=provider.fetch, clock=clock)
    assert asyncio.run(verifier.verify(token)).subject == "ci-job@shop"


# -- key sets


def test_only_public_signing_keys_of_good_size_are_taken(provider):
    good = provider.jwk("rsa-1")
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    private = ec.generate_private_key(ec.SECP256R1())
    entries = [
        good,
        {**good, "kid": "enc", "use": "enc"},
        {**good, "kid": "ops", "key_ops": ["encrypt"]},
        {**good, "kid": "alg", "alg": "HS256"},
        {**good, "kid": "n", "n": 7},
        {**good, "kid": 7},
        {**good, "kid": "x" * 300},
        {**jwt.algorithms.RSAAlgorithm.to_jwk(weak.public_key(), as_dict=True), "kid": "weak"},
        {**jwt.algorithms.ECAlgorithm.to_jwk(private, as_dict=True), "kid": "private"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "off-curve"},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA", "kid": "curve"},
        {"kty": "LATER", "kid": "later"},
        "no key",
        None,
    ]
    taken = parse_jwks(json.dumps({"keys": entries}).encode())
    assert [key.kid for key in taken] == ["rsa-1"]


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"keys": 7}', b'{"keys": []}', b'{"keys": [{"kty": "oct"}]}'])
def test_a_key_set_without_usable_keys_is_an_error(data):
    with pytest.raises(KeysError):
        parse_jwks(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
members = st.sampled_from(["kty", "kid", "n", "e", "crv", "x", "y", "use", "alg", "key_ops", "d"])
plausible = st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "sig", "RS256", "AA"])


@hypothesis_settings(deadline=None)
@given(st.lists(st.dictionaries(members, plausible | json_values, max_size=8), max_size=4))
def test_any_key_set_is_keys_or_a_keys_error(entries):
    try:
        parse_jwks(json.dumps({"keys": entries}).encode())
    except KeysError as error:
        assert "key set" in str(error)  # noqa: PT017 - either outcome is right


# -- the real thing: HTTPS, a private CA, rotation, an issuer that hangs


def test_against_a_real_issuer_over_https(settings, clock):
    with Issuer() as issuer:
        import time

        def real() -> Verifier:
            entry = settings(issuer=issuer.url, ca=issuer.ca_file)
            return Verifier([entry], clock=lambda: time.time() + shift)

        shift = 0.0

        async def run():
            nonlocal shift
            verifier = real()
            token = issuer.token("alice", ["oncall"])
            principal = await verifier.verify(token)
            assert (principal.subject, principal.groups) == ("alice", {"oncall"})
            issuer.rotate()
            shift += MIN_INTERVAL_S
            assert (await verifier.verify(issuer.token("bob", algorithm="ES256"))).subject == "bob"
            with pytest.raises(IdentityError):
                await verifier.verify(token)
            issuer.behave(status=500)
            with pytest.raises(IdentityError, match="cannot check tokens"):
                await real().verify(issuer.token("carol"))
            without_ca = Verifier([settings(issuer=issuer.url)])
            with pytest.raises(IdentityError) as caught:
                await without_ca.verify(issuer.token("dave"))
            assert "not trusted" in caught.value.detail

        asyncio.run(run())


def test_fetch_document_refuses_another_status_than_200():
    async def run():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            with pytest.raises(OutboundError, match="404"):
                await fetch_document(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x", None)

    asyncio.run(run())


def test_the_fresh_time_is_shorter_than_the_stale_time():
    assert MIN_INTERVAL_S < TTL_S < MAX_STALE_S

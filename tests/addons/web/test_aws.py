"""When keys are read: once for all connections, again when they grow old, expire, or are not taken."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import warnings
from types import SimpleNamespace
from typing import Any, cast

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mitmproxy's own
    from addons.web import aws
    from addons.web.aws import SharedKeys, read_keys
    from addons.web.aws_errors import ErrorMask, forms_of
    from addons.web.content import Unreadable
    from addons.web.inspect import Outbound
    from addons.web.live import NotAdmitted
from guard.config.schema import ResourceConfig
from guard.secrets import Secret
from protocols.contract import Effect
from protocols.http.aws.keys import BadKeys

DOCUMENT = {
    "Version": 1,
    "AccessKeyId": "ASIAEXAMPLE",
    "SecretAccessKey": "hidden-key-1",
    "SessionToken": "hidden-tok-1",
}


def resource(**credential: Any) -> ResourceConfig:
    given = {"provider": "file", "path": "/keys.json"} | credential
    auth = {"kind": "aws_sigv4", "region": "eu-central-1", "service": "s3"}
    document = {"name": "store", "protocol": "http", "host": "h", "credential": given, "http_auth": auth}
    return ResourceConfig.model_validate(document)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        monkeypatch.setattr(aws.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(aws.time, "time", lambda: self.now)


class Shared:
    """The keys of one resource, and a place where they are kept."""

    def __init__(self, **document: Any) -> None:
        self.runtime = SimpleNamespace(
            upstreams=SimpleNamespace(stale=set()), http=SimpleNamespace(outbound=Outbound())
        )
        self.keys = SharedKeys(cast(Any, self.runtime), resource())
        self.document = DOCUMENT | document
        self.reads = 0
        self.error: Exception | None = None

    async def read(self) -> Secret:
        self.reads += 1
        await asyncio.sleep(0)
        self.runtime.upstreams.stale.discard("store")
        if self.error is not None:
            raise self.error
        return Secret(json.dumps(self.document))

    def get(self) -> str:
        return asyncio.run(self.keys.get(self.read)).keys.secret_access_key


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_many_connections_read_once(clock: Clock) -> None:
    shared = Shared()

    async def go() -> list[Any]:
        return await asyncio.gather(*(shared.keys.get(shared.read) for _ in range(20)))

    assert len({id(signer) for signer in asyncio.run(go())}) == 1
    assert shared.reads == 1


def test_who_waits_for_a_reading_that_fails_does_not_wait_for_another(clock: Clock) -> None:
    shared = Shared()
    shared.error = NotAdmitted(503, "none")

    async def go() -> list[Any]:
        return await asyncio.gather(*(shared.keys.get(shared.read) for _ in range(20)), return_exceptions=True)

    assert {str(outcome) for outcome in asyncio.run(go())} == {"none"}
    assert shared.reads == 1


def test_who_leaves_does_not_take_the_reading_along(clock: Clock) -> None:
    shared = Shared()

    async def go() -> str:
        left = asyncio.ensure_future(shared.keys.get(shared.read))
        await asyncio.sleep(0)
        stays = asyncio.ensure_future(shared.keys.get(shared.read))
        await asyncio.sleep(0)
        left.cancel()
        return (await stays).keys.secret_access_key

    assert asyncio.run(go()) == "hidden-key-1"
    assert shared.reads == 1


def test_a_value_that_changes_is_used_within_half_a_minute(clock: Clock) -> None:
    shared = Shared()
    assert shared.get() == "hidden-key-1"
    shared.document["SecretAccessKey"] = "hidden-key-2"
    clock.now += 29
    assert shared.get() == "hidden-key-1"
    clock.now += 2
    assert shared.keys.at_hand() is None
    assert shared.get() == "hidden-key-2"


def test_what_the_upstream_does_not_take_is_read_again_but_not_all_the_time(clock: Clock) -> None:
    shared = Shared()
    shared.get()
    clock.now += 2
    shared.keys.not_taken()
    assert shared.keys.at_hand() is not None  # they were just read: it is something else that is refused
    clock.now += 4
    for _ in range(3):
        shared.keys.not_taken()
        shared.get()
    assert shared.reads == 2


def test_nothing_is_used_that_has_expired_or_is_about_to(clock: Clock) -> None:
    shared = Shared(Expiration="1970-01-12T13:46:59Z")  # 19 seconds from now
    assert shared.get() == "hidden-key-1"
    clock.now += 10
    assert shared.keys.at_hand() is None
    with pytest.raises(NotAdmitted, match="expired") as caught:
        shared.get()
    assert caught.value.status == 503
    shared.document["Expiration"] = "1970-01-13T00:00:00Z"
    assert shared.get() == "hidden-key-1"


@pytest.mark.parametrize("error", [NotAdmitted(503, "none"), OSError("disk"), TimeoutError()])
def test_while_they_cannot_be_read_there_are_none(clock: Clock, error: Exception) -> None:
    shared = Shared()
    shared.get()
    clock.now += 31
    shared.error = error
    for _ in range(2):
        with pytest.raises(type(error)):
            shared.get()
        assert shared.keys.at_hand() is None
    shared.error = None
    assert shared.get() == "hidden-key-1"


def test_what_is_no_key_is_a_refusal_without_a_value(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    shared = Shared(SessionToken="hidden-tok\r\nx-amz-acl: public-read")
    with pytest.raises(NotAdmitted) as caught:
        shared.get()
    assert caught.value.status == 503
    assert "session token" in caplog.text
    assert "hidden" not in caplog.text + str(caught.value)


def test_the_search_for_the_gateway_s_own_secrets_knows_both_parts(clock: Clock) -> None:
    shared = Shared()
    shared.get()
    outbound = shared.runtime.http.outbound
    for text in (b"a=hidden-key-1", b"b=hidden-tok-1", b"aGlkZGVuLWtleS0x"):
        assert outbound.look(text).effects == {Effect.EXFIL_CREDENTIAL}
    assert outbound.look(b"hidden").effects == frozenset()


FORMS = forms_of("tok/en+1==", "hid<den&key")
BASE64 = base64.b64encode(b"tok/en+1==")


def masked(*pieces: bytes, coding: str = "", then: Any = None) -> bytes:
    mask = ErrorMask(FORMS, coding, then)
    return b"".join([*map(mask.feed, pieces), mask.end()])


def test_an_error_is_shown_without_keys_however_it_comes() -> None:
    whole = b"<m>x-amz-security-token:tok/en+1==\nhost:h</m>"
    for cut in range(len(whole)):
        assert masked(whole[:cut], whole[cut:]) == whole.replace(b"tok/en+1==", b"[withheld]")
    for form in (b'"tok\\/en+1=="', b"tok%2Fen%2B1%3D%3D", BASE64, b"tok/en%2B1%3D%3D"):
        assert b"tok" not in masked(form)
        assert BASE64 not in masked(form)
    assert masked(b"nothing", b" of it") == b"nothing of it"


def test_an_error_in_a_coding_is_withheld_where_it_holds_keys() -> None:
    harmless = gzip.compress(b"access denied")
    assert masked(harmless, coding="gzip") == harmless
    for raw, coding in ((gzip.compress(b"tok/en+1=="), "gzip"), (b"?", "gzip"), (b"x", "unheard-of")):
        with pytest.raises(Unreadable):
            masked(raw, coding=coding)
    with pytest.raises(Unreadable):
        masked(b"x" * (1 << 20), b"x")


def test_what_a_rule_masks_is_masked_as_well() -> None:
    class Upper:
        def feed(self, data: bytes) -> bytes:
            return data.upper()

        def end(self) -> bytes:
            return b"!"

    assert masked(b"a tok/en+1== b", then=Upper()) == b"A [WITHHELD] B!"


def test_where_each_part_is() -> None:
    assert read_keys(resource(user="AKIA"), Secret("s")).access_key_id == "AKIA"
    found = read_keys(resource(), Secret("s", "ASIA", "t"))  # of Vault
    assert (found.access_key_id, found.secret_access_key, found.session_token) == ("ASIA", "s", "t")
    with pytest.raises(BadKeys, match="JSON document"):
        read_keys(resource(), Secret("just-a-secret"))

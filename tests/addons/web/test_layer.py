"""The HTTP layers fed by hand: whatever raises, nothing goes upstream, and the client gets an error."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from mitmproxy import connection, http
from mitmproxy.proxy import commands, events

from addons.web.layer import together
from addons.web.port import Ended, Forward, Refuse
from addons.web.stream import GuardedStream
from addons.web.wire import MAX_HEAD
from tests.support.http_raw import ok
from tests.support.http_talk import Exchange, Talk

GET = b"GET /a HTTP/1.1\r\nHost: up.example\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: up.example\r\nContent-Length: 5\r\n\r\nhello"


class Boom(Exception):
    """What goes wrong."""


def _raises(*args: object) -> Any:
    raise Boom


def _lies(*args: object) -> Any:
    return None


async def _raises_later(*args: object) -> Any:
    raise Boom


def test_a_request_and_its_answer_pass() -> None:
    talk = Talk()
    talk.says(POST)
    assert talk.up.endswith(b"\r\n\r\nhello")
    talk.answers(ok())
    assert talk.down == ok()
    assert talk.exchanges[0].told == ["finished"]


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("failure", [_raises, _raises_later])
@pytest.mark.parametrize(
    ("method", "sent"),
    [("begin", GET), ("begin", POST), ("complete", POST), ("body", POST), ("connect", b"CONNECT a:1 HTTP/1.1\r\n\r\n")],
)
def test_row_34_a_guard_that_raises_forwards_nothing(
    method: str, sent: bytes, failure: Callable[..., Any], watched: bool
) -> None:
    talk = Talk(lambda e: setattr(e, method, failure), watched=watched)
    talk.says(sent)
    assert talk.up == b""
    assert talk.server is None
    assert talk.down.startswith(b"HTTP/1.1 502") or talk.client in talk.closed
    assert talk.exchanges[0].told[0].startswith("failed")


@pytest.mark.parametrize("verdict", [None, True, "allow", object(), b"yes"])
@pytest.mark.parametrize(("method", "sent"), [("begin", GET), ("begin", POST), ("complete", POST)])
def test_row_34_what_is_no_verdict_forwards_nothing(method: str, sent: bytes, verdict: object) -> None:
    talk = Talk(lambda e: setattr(e, method, lambda *a: verdict))
    talk.says(sent)
    assert talk.up == b""


@pytest.mark.parametrize("method", ["outgoing", "address"])
def test_row_34_a_request_that_cannot_be_prepared_does_not_go(method: str) -> None:
    talk = Talk(lambda e: setattr(e, method, _raises))
    talk.says(GET)
    assert talk.up == b""
    assert b"200 OK" not in talk.down


@pytest.mark.parametrize("failure", [_raises, _lies])
@pytest.mark.parametrize("method", ["answer", "answer_data", "answer_end", "to_client"])
def test_row_34_an_answer_that_cannot_be_judged_is_withheld(method: str, failure: Callable[..., Any]) -> None:
    talk = Talk(lambda e: setattr(e, method, failure))
    talk.says(GET)
    talk.answers(ok(b"SECRET", "connection: keep-alive"))
    if method != "answer_end":
        assert b"SECRET" not in talk.down
    assert talk.client in talk.closed or b"502" in talk.down


def test_row_34_a_projection_that_raises_stops_only_the_show() -> None:
    talk = Talk(lambda e: setattr(e, "show", _raises), watched=True)
    talk.says(GET)
    talk.answers(ok())
    assert talk.down == ok()
    assert talk.flows == []


def test_what_hooks_change_changes_nothing() -> None:
    talk = Talk(watched=True)
    original = talk._feed

    talk.says(GET[:20])
    feed = talk.layer.handle_event

    def meddling(event: events.Event) -> Any:
        for flow in talk.flows:
            flow.request.path = "/changed"
            flow.request.content = b"smuggled"
            flow.request.headers["x-added"] = "1"
            if flow.response is not None:
                flow.response.content = b"changed"
        return feed(event)

    talk.layer.handle_event = meddling  # type: ignore[method-assign]
    original(events.DataReceived(talk.client, GET[20:]))
    assert talk.up == GET
    talk.answers(ok(b'{"a": 1}'))
    assert talk.down == ok(b'{"a": 1}')
    assert len(talk.flows) >= 3


def test_a_flow_that_is_killed_is_not_sent() -> None:
    talk = Talk(watched=True)
    feed = talk.layer.handle_event

    def killing(event: events.Event) -> Any:
        for flow in talk.flows:
            if flow.killable:
                flow.kill()
        return feed(event)

    talk.layer.handle_event = killing  # type: ignore[method-assign]
    talk.says(GET)
    assert talk.up == b""
    assert talk.client in talk.closed


def test_a_refusal_has_no_body_for_head() -> None:
    refusal = http.Response.make(403, b"no", {"content-type": "text/plain"})
    talk = Talk(lambda e: setattr(e, "begin", lambda end: Refuse(refusal)))
    talk.says(b"HEAD /a HTTP/1.1\r\nHost: up.example\r\n\r\n")
    assert talk.down.endswith(b"\r\n\r\n")
    talk = Talk(lambda e: setattr(e, "answer", lambda r, end: Refuse(refusal)))
    talk.says(b"HEAD /a HTTP/1.1\r\nHost: up.example\r\n\r\n")
    talk.answers(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n")
    assert talk.down.endswith(b"\r\n\r\n")


def test_a_refused_body_ends_its_connection() -> None:
    refusal = http.Response.make(413, b"no")
    talk = Talk(lambda e: setattr(e, "begin", lambda end: Refuse(refusal)))
    talk.says(b"POST / HTTP/1.1\r\nHost: up.example\r\nContent-Length: 9999999\r\n\r\nabc")
    assert b"connection: close" in talk.down.lower()
    assert len(talk.exchanges) == 1
    for _ in range(20):
        talk.says(b"x" * 65536)
    assert talk.client in talk.closed
    # one that waits for `100 Continue` sends its next request in the body's place
    talk = Talk(lambda e: setattr(e, "begin", lambda end: Refuse(refusal)))
    talk.says(b"POST / HTTP/1.1\r\nHost: up.example\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    assert talk.client in talk.closed


def test_a_stream_that_is_ended_is_cut_on_both_sides() -> None:
    def begin(exchange: Exchange) -> None:
        def body(data: bytes) -> bytes:
            if b"secret" in data:
                raise Ended("no")
            return data

        setattr(exchange, "begin", lambda end: Forward())  # noqa: B010  # the protocol's method
        setattr(exchange, "body", body)  # noqa: B010

    talk = Talk(begin)
    talk.says(b"POST / HTTP/1.1\r\nHost: up.example\r\nContent-Length: 100\r\n\r\nfine so far ")
    assert talk.up.endswith(b"fine so far ")
    talk.says(b"a secret")
    assert b"secret" not in talk.up
    assert talk.server in talk.closed
    assert talk.exchanges[0].told == ["failed: no"]


def test_interim_answers_are_not_taken_for_the_answer() -> None:
    talk = Talk()
    talk.says(GET)
    talk.answers(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + ok()[:10])
    assert talk.down == b""
    talk.answers(ok()[10:])
    assert talk.down == ok()
    talk.says(GET)
    talk.answers(b"HTTP/1.1 102 Processing\r\n\r\n" * 40)
    assert talk.server in talk.closed
    assert b"200 OK" not in talk.down[len(ok()) :]


def test_trailers_end_here() -> None:
    talk = Talk()
    body = b"5\r\nhello\r\n0\r\nx-admin: yes\r\n\r\n"
    talk.says(b"POST / HTTP/1.1\r\nHost: up.example\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert b"hello" in talk.up
    assert b"x-admin" not in talk.up
    talk.answers(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body)
    assert b"hello" in talk.down
    assert b"x-admin" not in talk.down


def test_heads_and_lines_between_pieces_are_bounded() -> None:
    talk = Talk()
    talk.says(GET)
    talk.answers(b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD + 1))
    assert talk.server in talk.closed
    assert b"yyy" not in talk.down
    for start in (
        b"GET / HTTP/1.1\r\nx: ",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: ",
    ):
        talk = Talk()
        talk.says(start + b"y" * (MAX_HEAD + 1))
        assert talk.client in talk.closed
        assert talk.up == b""


def test_what_an_upstream_says_out_of_turn_is_not_quoted() -> None:
    talk = Talk()
    talk.says(GET)
    talk.answers(b"SECRET no http at all\r\n\r\n")
    assert b"SECRET" not in talk.down
    assert "SECRET" not in talk.logged
    talk = Talk()
    talk.says(GET)
    talk.answers(ok())
    talk.answers(b"SECRET afterwards")
    assert "SECRET" not in talk.logged


def test_row_28_half_a_head_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    for head in (b"GET / HTTP/1.1\r\nProxy-Authorization: Bearer SECRET", b"Proxy-Authorization : SECRET\r\n\r\n"):
        talk = Talk()
        talk.says(head)
        talk.leaves()
        assert "SECRET" not in talk.logged
        assert b"SECRET" not in talk.down
    assert "SECRET" not in caplog.text


def test_a_client_that_floods_while_it_waits_is_not_read() -> None:
    talk = Talk()
    talk.says(GET)
    for _ in range(10):
        talk.says(GET * 1000)
    assert talk.paused
    assert len(talk.exchanges) == 1
    talk.answers(ok())
    assert len(talk.exchanges) == 2  # one after the other


def test_a_malformed_request_is_nobodys_flow() -> None:
    talk = Talk(watched=True)
    talk.says(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello")
    assert talk.down.startswith(b"HTTP/1.1 400")
    assert b"mitmproxy" not in talk.down
    assert talk.up == b""
    assert talk.exchanges == []


# ---------------------------------------------------------------- what it costs


def test_a_head_and_its_body_go_at_once() -> None:
    talk = Talk()
    talk.says(POST)
    talk.answers(ok(b"hello"))
    assert talk.sends == [len(talk.up), len(ok(b"hello"))]


def test_what_is_large_is_not_copied_to_go_at_once() -> None:
    talk = Talk()
    talk.says(GET)
    body = b"x" * 100_000
    talk.answers(ok(body))
    assert talk.down == ok(body)
    assert talk.sends[1:] == [len(ok(body)) - len(body), len(body)]


def test_what_was_on_its_way_goes_before_an_error_ends_it() -> None:
    client, server = (connection.Server(address=None) for _ in "ab")

    def steps() -> Any:
        yield commands.SendData(client, b"one")
        yield commands.SendData(client, b"two")
        yield commands.SendData(server, b"three")
        raise Boom

    sent: list[tuple[Any, bytes]] = []
    with pytest.raises(Boom):
        sent.extend((command.connection, command.data) for command in together(steps()))
    assert sent == [(client, b"onetwo"), (server, b"three")]


def alive() -> int:
    return sum(isinstance(one, GuardedStream) for one in gc.get_objects())


def test_a_request_that_is_done_leaves_nothing_for_the_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        talk, before = Talk(), alive()
        for _ in range(5):
            talk.says(POST)
            talk.answers(ok())
        talk.says(b"GET / HTTP/1.1\r\nHost: up.example\r\nConnection: close\r\n\r\n")
        talk.answers(ok())
        assert alive() == before
        assert [one.told for one in talk.exchanges] == [["finished"]] * 6
    finally:
        gc.enable()


def test_a_request_that_is_lost_while_it_waits_lives_until_it_is_done() -> None:
    async def verdict() -> Forward:
        return Forward()

    talk = Talk(lambda e: setattr(e, "begin", lambda _: verdict()))
    talk.patient = True
    talk.says(GET)
    talk.leaves()
    talk.goes_on()
    assert talk.up == b""
    assert talk.logged == ""
    assert [told.partition(":")[0] for told in talk.exchanges[0].told] == ["failed"]

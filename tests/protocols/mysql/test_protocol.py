"""What the registry knows of MySQL."""

from __future__ import annotations

import pytest

from protocols.contract import Credential, UpstreamLogin
from protocols.mysql import errors
from protocols.mysql.errors import Code, code_of, err_packet, err_payload, text_of
from protocols.mysql.handshake import Handover
from protocols.mysql.messages import Err
from protocols.mysql.protocol import PROTOCOL
from protocols.mysql.session import MysqlSession
from protocols.registry import PROTOCOLS
from tests.protocols.mysql.test_handshake import login
from tests.support.handshake import play


def test_it_is_registered_under_its_name() -> None:
    assert PROTOCOLS["mysql"] is PROTOCOL
    assert (PROTOCOL.name, PROTOCOL.default_port) == ("mysql", 3306)
    assert set(PROTOCOL.dsn_schemes) == {"mysql", "mariadb"}


def test_each_resource_remembers_for_itself() -> None:
    first, second = PROTOCOL.cache(), PROTOCOL.cache()
    assert first.greeting is None
    assert first.analyses is not second.analyses


def test_a_handover_becomes_a_session() -> None:
    class Port:
        masker = None

    handover: Handover = login().result
    port: object = Port()
    session = PROTOCOL.session(
        "s1",
        port,  # type: ignore[arg-type]  # a session asks nothing of it before its first byte
        handover,
        PROTOCOL.cache(),
        inspect_max=1000,
        response_max=10,
    )
    assert isinstance(session, MysqlSession)
    assert session.state is handover.state
    assert session.capabilities == handover.capabilities
    assert (session.upstream_id, session.limits.inspect_max) == (77, 1000)


def test_last_words_before_any_greeting() -> None:
    """Clients read an ERR in place of the greeting, numbered 0, without SQLSTATE."""
    words = PROTOCOL.refusal("too many connections")
    assert words[:4] == bytes((len(words) - 4, 0, 0, 0))
    assert Err.decode(words[4:]) == Err(1040, "", b"too many connections")
    assert Err.decode(PROTOCOL.refusal("no", "57P03")[4:]).errno == 1053


def test_cancelling_asks_for_a_connection_of_its_own() -> None:
    asked = PROTOCOL.cancel(UpstreamLogin(Credential("gw", "x"), "", False, b""), 5, b"")
    assert play(asked, [], []).upstream == b""  # the server greets first


CODES = {name: code for name, code in vars(errors).items() if isinstance(code, tuple) and name.isupper()}


@pytest.mark.parametrize("name", CODES)
def test_codes_travel_in_a_refusal(name: str) -> None:
    code: Code = CODES[name]
    assert code_of(text_of(code)) == code
    assert 1000 <= code[0] < 0xFFFF
    assert len(code[1]) == 5


@pytest.mark.parametrize("text", ["", "/", "1045/", "x/28000", "1045/2800", "²/28000", "99Z99"])
def test_a_code_that_is_none(text: str) -> None:
    assert code_of(text) == errors.UNKNOWN_ERROR


def test_texts_of_errors_are_bounded_and_whole() -> None:
    body = err_payload(errors.ACCESS_DENIED, "ü" * 1000)
    message = Err.decode(body).message
    assert len(message) <= errors.MAX_TEXT
    assert message.decode().endswith("ü...")
    assert b"\0" not in err_payload(errors.ACCESS_DENIED, "a\0b")
    assert err_packet(260, errors.ACCESS_DENIED, "x")[3] == 4

"""Every message: what is encoded is decoded again, and arbitrary bytes are an error of ours, never another."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.postgres import messages as m
from protocols.postgres.errors import ProtocolError, error_response, notice_response
from protocols.postgres.fields import frame
from tests.support import wire

texts = st.binary(max_size=30).map(lambda b: b.replace(b"\0", b""))
values = st.lists(st.none() | st.binary(max_size=20), max_size=5).map(tuple)
shorts = st.lists(st.integers(-(2**15), 2**15 - 1), max_size=4).map(tuple)
oids = st.integers(0, 2**32 - 1)
fields = st.builds(
    m.FieldDescription, texts, oids, st.integers(-(2**15), 2**15 - 1), oids, st.integers(-(2**15), 2**15 - 1),
    st.integers(-(2**31), 2**31 - 1), st.integers(0, 1),
)  # fmt: skip
MESSAGES: dict[type[Any], st.SearchStrategy[Any]] = {
    m.Query: st.builds(m.Query, texts),
    m.Parse: st.builds(m.Parse, texts, texts, st.lists(oids, max_size=4).map(tuple)),
    m.Bind: st.builds(m.Bind, texts, texts, shorts, values, shorts),
    m.Describe: st.builds(m.Describe, st.sampled_from([b"S", b"P"]), texts),
    m.Close: st.builds(m.Close, st.sampled_from([b"S", b"P"]), texts),
    m.Execute: st.builds(m.Execute, texts, st.integers(-(2**31), 2**31 - 1)),
    m.FunctionCall: st.builds(m.FunctionCall, oids, shorts, values, st.integers(0, 1)),
    m.RowDescription: st.builds(m.RowDescription, st.lists(fields, max_size=4).map(tuple)),
    m.DataRow: st.builds(m.DataRow, values),
    m.FunctionCallResponse: st.builds(m.FunctionCallResponse, st.none() | st.binary(max_size=20)),
    m.CommandComplete: st.builds(m.CommandComplete, texts),
    m.ParameterStatus: st.builds(m.ParameterStatus, texts, texts),
    m.BackendKeyData: st.builds(m.BackendKeyData, oids, st.binary(min_size=4, max_size=256)),
    m.ReadyForQuery: st.builds(m.ReadyForQuery, st.sampled_from("ITE")),
}


@pytest.mark.parametrize("kind", MESSAGES)
@given(data=st.data())
def test_decode_is_the_inverse_of_encode(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    encoded = message.encode()
    ((letter, body),) = wire.split(encoded)
    assert letter.encode() == kind.kind
    assert kind.decode(body) == message


@given(st.lists(st.tuples(st.sampled_from("SCMDHPWsct"), texts), max_size=6), st.sampled_from([b"E", b"N"]))
def test_fields_keep_their_order(items: list[tuple[str, bytes]], kind: bytes) -> None:
    message = m.Fields(tuple(items))
    ((_, body),) = wire.split(message.encode(kind))
    assert m.Fields.decode(body) == message


@given(st.integers(0, 255), shorts, st.sampled_from([b"G", b"H"]))
def test_copy_responses(fmt: int, formats: tuple[int, ...], kind: bytes) -> None:
    message = m.CopyResponse(fmt, formats)
    ((_, body),) = wire.split(message.encode(kind))
    assert m.CopyResponse.decode(body) == message


@pytest.mark.parametrize("kind", [*MESSAGES, m.Fields, m.CopyResponse])
@given(body=st.binary(max_size=80))
def test_arbitrary_bytes_raise_only_our_error(kind: type[Any], body: bytes) -> None:
    try:
        kind.decode(body)
    except ProtocolError:
        return
    if kind in MESSAGES:
        assert kind.decode(body).encode()[5:] == body  # nothing was left unread, nothing made up


@pytest.mark.parametrize("kind", MESSAGES)
@given(data=st.data())
def test_a_message_cut_short_or_too_long_is_an_error(kind: type[Any], data: st.DataObject) -> None:
    body = data.draw(MESSAGES[kind]).encode()[5:]
    if kind is not m.BackendKeyData:
        with pytest.raises(ProtocolError):
            kind.decode(body + b"\0")
    end = data.draw(st.integers(0, max(0, len(body) - 1)))
    cut = body[:end]
    if kind is m.BackendKeyData and len(cut) >= 8:
        return  # its secret has any length
    if cut != body:
        with pytest.raises(ProtocolError):
            kind.decode(cut)


@pytest.mark.parametrize(
    "body",
    [
        b"p\0s\0" + struct.pack("!HHi", 0, 1, -2) + b"\0\0",  # a negative length that is not NULL
        b"p\0s\0" + struct.pack("!HHi", 0, 1, 0x7FFFFFFF) + b"\0\0",
        b"p\0s\0" + struct.pack("!HH", 0, 0xFFFF),
        b"p\0s\0" + struct.pack("!H", 0xFFFF),
        b"p\0s",
        b"",
    ],
)
def test_row_02_lengths_in_a_bind_that_do_not_fit(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        m.Bind.decode(body)


class Long(bytes):
    """Four gigabytes, as far as anybody asks."""

    def __len__(self) -> int:
        return 2**32 - 4 + 10


def test_row_01_a_length_that_would_wrap_is_an_error() -> None:
    """CVE-2024-27304: 4 GiB and 10 bytes encode as 10; what follows would be read as messages."""
    with pytest.raises(ProtocolError, match="longer than the protocol can say"):
        frame(b"Q", Long())
    with pytest.raises(ProtocolError):
        m.DataRow((b"",) * 65536).encode()


def test_counts_are_unsigned() -> None:
    """More than 32767 parameters are legal (libpq allows 65535)."""
    message = m.Bind(b"", b"", (), (b"x",) * 40_000)
    assert m.Bind.decode(message.encode()[5:]) == message


@given(st.text(max_size=40), st.text(max_size=40))
def test_an_error_text_cannot_add_fields(message: str, hint: str) -> None:
    for made in (error_response("42501", message, hint=hint), notice_response(message, hint=hint)):
        ((_, body),) = wire.split(made)
        items = m.Fields.decode(body).items
        assert [k for k, _ in items] == ["S", "V", "C", "M", *(["H"] if hint else [])]


@pytest.mark.parametrize(("tag", "rows"), [(b"SELECT 5", 5), (b"INSERT 0 3", 3), (b"BEGIN", 0), (b"", 0), (b"X -1", 0)])
def test_rows_of_a_tag(tag: bytes, rows: int) -> None:
    assert m.CommandComplete(tag).rows() == rows


def test_startup_parameters_hold_no_nul() -> None:
    assert m.encode_parameters([("user", "a"), ("x", "")]) == b"user\0a\0x\0\0\0"
    for pair in (("", "x"), ("a\0b", "x"), ("a", "x\0y")):
        with pytest.raises(ProtocolError):
            m.encode_parameters([pair])

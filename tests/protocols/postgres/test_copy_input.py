"""What a client sends for COPY FROM STDIN, on record: cut as the server cuts it, masked fields gone, or not kept."""

from __future__ import annotations

import base64
import random
import struct
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import pq

from guard.record.redact import redact_params
from protocols.contract import MaskRule
from protocols.intake import MOST, MOST_FIELDS, Uncut
from protocols.postgres.copy_input import Binary, Csv, Text
from protocols.postgres.copy_options import CopyOptions
from scripts.support.postgres import PostgresServer
from tests.support import wire
from tests.support.port import anything
from tests.support.talk import SSN, Talk, catalog
from tests.support.wire import COPY_DONE, bind, complete, copy_data, execute, parse, query, ready

SECRET = b"078-05-1120"
HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)


def load(talk: Talk, sql: str, *data: bytes, width: int = 3, ends: bytes = b"") -> dict[str, Any]:
    """The response record of one COPY FROM STDIN with this input; the server gets it as it is."""
    assert talk.client(query(sql)) == query(sql)
    talk.server(wire.copy_in(*(0,) * width))
    sent = b"".join(copy_data(one) for one in data) + COPY_DONE
    assert talk.client(sent) == sent
    talk.server(ends or complete("COPY 1"), ready())
    return talk.last()


def kept(record: dict[str, Any]) -> bytes:
    return base64.b64decode(record.get("input", ""))


def masked(sql: str, *data: bytes, width: int = 3, **given: Any) -> dict[str, Any]:
    return load(Talk(masks=[SSN], **given), sql, *data, width=width)


def test_fields_of_masked_columns_are_replaced_and_the_rest_is_on_record() -> None:
    record = masked("COPY users FROM STDIN", b"1\t078-05-1120\tAda\n2\t\\N\tBob\n3\t0\\", b"\t78\tCy\n")
    assert kept(record) == b"1\t[redacted]\tAda\n2\t\\N\tBob\n3\t[redacted]\tCy\n"
    assert record["input_columns"] == [
        {"name": "id", "masked": None},
        {"name": "ssn", "masked": "hide-ssn"},
        {"name": "name", "masked": None},
    ]
    assert "input_withheld" not in record


@pytest.mark.parametrize(
    ("options", "data", "width", "expected"),
    [
        (" (ssn, id)|||", b"078-05-1120\t1\n", 2, b"[redacted]\t1\n"),
        (" (name)|||", b"Ada\n", 1, b"Ada\n"),
        (" WITH (DELIMITER '|', NULL '-')", b"1|078-05-1120|x\n2|-|y\n", 3, b"1|[redacted]|x\n2|-|y\n"),
        (" CSV", b'1,"078-05\n-1120",x\r\n', 3, b"1,[redacted],x\r\n"),
        (" CSV", b"1,,x\n2,,y", 3, b"1,,x\n2,,y"),
        (" CSV", b'1,"",x\n', 3, b"1,[redacted],x\n"),
        (" CSV QUOTE '''' ESCAPE '\\'", b"1,'078\\'05',x\n", 3, b"1,[redacted],x\n"),
        (" WITH (FORMAT csv, HEADER)", b"id,ssn,name\n1,078,x\n", 3, b"id,ssn,name\n1,[redacted],x\n"),
        (" WITH (FORMAT csv, HEADER match)", b'id,"ssn",name\n1,078,x\n', 3, b'id,"ssn",name\n1,[redacted],x\n'),
        (" WITH (FORMAT csv, HEADER)", b"id,078-05-1120,name\n", 3, b"id,[redacted],name\n"),
        (" WITH (HEADER)", b"id\t078-05-1120\tname\n", 3, b"id\t[redacted]\tname\n"),
        ("", b"1\t078-05-1120\tx\n\\.\n", 3, b"1\t[redacted]\tx\n\\.\n"),
    ],
)  # fmt: skip
def test_each_format_and_its_options(options: str, data: bytes, width: int, expected: bytes) -> None:
    before, _, after = options.rpartition("|||")
    record = masked(f"COPY users{before} FROM STDIN{after}", data, width=width)
    assert kept(record) == expected
    assert "input_withheld" not in record


def test_binary() -> None:
    def row(*values: bytes | None) -> bytes:
        fields = [b"\xff" * 4 if v is None else struct.pack("!i", len(v)) + v for v in values]
        return struct.pack("!h", len(values)) + b"".join(fields)

    data = HEAD + row(b"\0\0\0\1", SECRET, b"Ada") + row(b"\0\0\0\2", None, b"Bob") + b"\xff\xff"
    record = masked("COPY users FROM STDIN BINARY", data[:30], data[30:])
    assert kept(record) == HEAD + row(b"\0\0\0\1", b"[redacted]", b"Ada") + row(b"\0\0\0\2", None, b"Bob") + b"\xff\xff"
    for odd in (HEAD[:-1] + b"\1", HEAD + row(b"1", SECRET), b"1\t078-05-1120\tx\n" * 3, data + b"x"):
        record = masked("COPY users FROM STDIN BINARY", odd)
        assert record["input_withheld"]
        assert SECRET not in kept(record)


@pytest.mark.parametrize(
    ("sql", "data", "why"),
    [
        ("", b"1\t078-05-1120\n", "another number"),
        ("", b"1\t078-05-1120\tx\ty\n", "another number"),
        ("", b"1\tx\t078-05-1120\r2\ty\tz\r", "in the same way"),
        ("", b"1\t0\tx\r\n2\t078-05-1120\tx\n", "in the same way"),
        ("", b"1\t0\tx\n\\.\n078-05-1120", "end-of-data"),
        ("", b"1\t078-05-1120\\.\n", "end-of-data"),
        (" CSV", b'1,07"8-05-1120",x\n', "usually written"),
        (" CSV", b'1,"078-05-1120"x,x\n', "usually written"),
        (" CSV", b'1,"078-05-1120,x\n', "usually written"),
        (" CSV", b"1,0,x\n\\.\n2,078-05-1120,y\n", "end-of-data"),
        (" DELIMITER 'A'", b"1A078-05-1120Ax\n", "delimiter"),
        (" WITH (ENCODING 'SJIS')", b"1\t078-05-1120\tx\n", "not known"),
        (" CSV ESCAPE ','", b"1,078-05-1120,x\n", "told from"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_for_certain_is_withheld_and_the_record_says_so(sql: str, data: bytes, why: str) -> None:
    record = load(Talk(anything, masks=[SSN]), f"COPY users FROM STDIN{sql}", data)
    assert SECRET not in kept(record)
    assert why in record["input_withheld"]
    assert "078" not in record["input_withheld"]


def test_rows_before_what_cannot_be_cut_are_kept() -> None:
    record = masked("COPY users FROM STDIN", b"1\t078-05-1120\tx\n2\t078-05-1120\n3\t\ty\n")
    assert kept(record) == b"1\t[redacted]\tx\n"
    assert "another number" in record["input_withheld"]


def test_a_table_without_masks_is_kept_as_it_is_whatever_its_rows_look_like() -> None:
    record = masked("COPY orders FROM STDIN", b'1\t"\r2\n\\.', width=2)
    assert kept(record) == b'1\t"\r2\n\\.'
    assert "input_columns" not in record


def test_columns_that_are_not_known_are_withheld() -> None:
    everywhere = MaskRule("hide-ssn", ("*.*.ssn",), (), "redact")
    record = load(Talk(anything, masks=[everywhere]), "COPY pg_temp.x FROM STDIN", b"1\t078-05-1120\tx\n")
    assert record["input_withheld"] == "the columns of its table are not known"
    talk = Talk(anything, masks=[SSN])
    talk.client(query("COPY users FROM STDIN"))
    talk.port.snapshot = None
    talk.server(wire.copy_in(0, 0, 0))
    talk.client(copy_data(b"1\t078-05-1120\tx\n") + COPY_DONE)
    talk.server(complete("COPY 1"), ready())
    assert "input" not in talk.last()
    # of a width that the catalog does not expect: somebody altered the table this very moment
    record = masked("COPY users FROM STDIN", b"1\t078-05-1120\n", width=2)
    assert record["input_withheld"] == "the columns of its table are not known"


def test_at_the_limit_the_last_row_is_left_out() -> None:
    record = masked("COPY users FROM STDIN", *[b"1\t078-05-1120\tAda\n"] * 10, response_max=50)
    assert kept(record) == b"1\t[redacted]\tAda\n" * 2
    assert record["truncated"] is True
    assert "input_withheld" not in record
    for options, row in (("", b"1\t078-05-1120\tA\\\tda\r\n"), (" CSV", b'1,078-05-1120,"A""d\na"\r\n')):
        for limit in range(1, 3 * len(row)):
            record = masked(f"COPY users FROM STDIN{options}", row * 3, response_max=limit)
            expected = row.replace(SECRET, b"[redacted]") * (limit // len(row))
            assert kept(record) == expected, (options, limit)
            assert "input_withheld" not in record, (options, limit)


def test_a_large_message_is_on_record_without_a_gap() -> None:
    """It passes in pieces: one that was left out would shift every field behind it."""
    row = b"1\t078-05-1120\tAda\n"
    talk = Talk(masks=[SSN], response_max=1 << 20)
    talk.client(query("COPY users FROM STDIN"))
    talk.server(wire.copy_in(0, 0, 0))
    message = copy_data(row * 4_000)
    for at in range(0, len(message), 7000):
        assert talk.client(message[at : at + 7000]) == message[at : at + 7000]
    talk.client(copy_data(row) + COPY_DONE)
    talk.server(complete("COPY 4001"), ready())
    assert kept(talk.last()) == row.replace(SECRET, b"[redacted]") * 4_001
    assert talk.last()["truncated"] is False


def test_input_that_comes_before_the_server_asks_is_judged_by_what_it_asks() -> None:
    talk = Talk(masks=[SSN])
    data = copy_data(b"1\t078-05-1120\tAda\n")
    talk.client(query("COPY users FROM STDIN") + data + COPY_DONE)
    talk.server(wire.copy_in(0, 0, 0), complete("COPY 1"), ready())
    assert kept(talk.last()) == b"1\t[redacted]\tAda\n"
    talk.client(query("COPY users FROM STDIN") + data + COPY_DONE)
    talk.server(wire.error("42501"), ready())
    assert "input" not in talk.last()
    assert talk.last()["input_withheld"] == "the server never asked for it"


def test_what_is_cut_is_bounded_in_bytes_and_in_fields() -> None:
    """It is done at once, and other sessions wait for it."""
    talk = Talk(masks=[SSN], response_max=1 << 20)
    record = load(talk, "COPY users FROM STDIN", *[b"1\t078-05-1120\tA\n" * 100] * 100)
    assert kept(record) == b"1\t[redacted]\tA\n" * (MOST_FIELDS // 4)
    assert "only so much" in record["input_withheld"]
    row = b"1\t078-05-1120\t" + b"A" * 1000 + b"\n"
    record = load(Talk(masks=[SSN], response_max=1 << 20), "COPY users FROM STDIN", *[row] * 500)
    assert kept(record) == row.replace(SECRET, b"[redacted]") * (MOST // len(row))
    assert "only so much" in record["input_withheld"]
    for odd in (b"," * 100_000, b'"' * 100_000, b"\n" * 100_000, b",\n" * 100_000):
        assert len(kept(load(Talk(masks=[SSN], response_max=1 << 20), "COPY users FROM STDIN CSV", odd))) < 10


def test_two_copies_in_one_message_have_each_their_own_columns() -> None:
    talk = Talk(masks=[SSN])
    talk.client(query("COPY orders FROM STDIN; COPY users FROM STDIN; COPY users FROM STDIN"))
    talk.server(wire.copy_in(0, 0))
    talk.client(copy_data(b"1\t078\n") + COPY_DONE)
    talk.server(complete("COPY 1"), wire.copy_in(0, 0, 0))
    assert kept(talk.last()) == b"1\t078\n"
    talk.client(copy_data(b"1\t078\tAda\n") + COPY_DONE)
    talk.server(complete("COPY 1"))
    assert kept(talk.last()) == b"1\t[redacted]\tAda\n"
    talk.client(copy_data(b"1\t078-05-1120\tAda\n"))  # and the third is refused
    talk.server(wire.error("42501"), ready())
    assert "input" not in talk.last()


def test_in_the_extended_protocol_as_well() -> None:
    talk = Talk(masks=[SSN])
    talk.client(parse("", "COPY users (ssn) FROM STDIN") + bind("", "") + execute() + wire.SYNC)
    talk.server(wire.PARSED, wire.BOUND, wire.NO_DATA, wire.copy_in(0))
    talk.client(copy_data(b"078-05-1120\n") + COPY_DONE + wire.SYNC)
    talk.server(complete("COPY 1"), ready())
    assert kept(talk.last()) == b"[redacted]\n"


class Redacting(Talk):
    """With the record's own redaction of parameters."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.port.redact_params = redact_params  # type: ignore[assignment]


@pytest.mark.parametrize("masks", [[], [SSN]], ids=["no masks", "masks"])
def test_secrets_are_known_by_their_form_and_by_their_column(masks: list[MaskRule]) -> None:
    form = b"1\tpostgres://me:hunter2@db/x\n2\tplain\n3\tbearer\\x20abc\n"
    record = load(Redacting(masks=masks), "COPY orders FROM STDIN", form, width=2)
    assert kept(record) == b"1\t[redacted]\n2\tplain\n3\t[redacted]\n"
    if not masks:
        record = load(Redacting(decide=anything), "COPY accounts (id, api_key) FROM STDIN", b"1\tabc\n", width=2)
        assert kept(record) == b"1\t[redacted]\n"
    pem = b'1,"-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"\n2,x\n'
    record = load(Redacting(masks=masks), "COPY orders FROM STDIN CSV", pem, width=2)
    assert kept(record) == b"1,[redacted]\n2,x\n"
    record = load(Redacting(masks=masks), "COPY orders FROM STDIN", b"1\tpassword=x\ty\n", width=2)
    assert kept(record) == b""
    assert "another number" in record["input_withheld"]


def test_the_sessions_encoding_decides_whether_bytes_can_be_cut() -> None:
    talk = Talk(masks=[SSN])
    talk.server(wire.parameter("client_encoding", "BIG5"))
    assert "encoding" in load(talk, "COPY users FROM STDIN", b"1\t078-05-1120\tx\n")["input_withheld"]


# ---------------------------------------------------------------- against servers

_OPTIONS: list[tuple[CopyOptions, str, type[Text] | type[Csv]]] = [
    (CopyOptions(), "", Text),
    (CopyOptions(delimiter=b"|", null=b"-"), "DELIMITER '|', NULL '-'", Text),
    (CopyOptions("csv", b",", b""), "FORMAT csv", Csv),
    (
        CopyOptions("csv", b";", b"-", b"'", b"\\"),
        "FORMAT csv, DELIMITER ';', NULL '-', QUOTE '''', ESCAPE E'\\\\'",
        Csv,
    ),
    (CopyOptions("csv", b",", b"", b'"', b"e"), "FORMAT csv, ESCAPE 'e'", Csv),
]  # fmt: skip
_PIECES = [
    b"a", b"b", b"e", b"N", b"-", b".", b"7", b"x4", b"\xc3\xa9", b"\\", b"\\", b"\\N", b"\\.", b"\n", b"\n", b"\r",
    b"\r\n", b"\t", b"|", b",", b";", b'"', b'""', b"'",
]  # fmt: skip


@pytest.fixture(scope="module")
def connection(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with server.connect() as found:
        found.autocommit = True
        found.execute("CREATE TABLE loaded (a text, b text)")
        yield found
        found.execute("DROP TABLE loaded")


def loads(connection: psycopg.Connection[Any], options: str, data: bytes) -> list[tuple[bytes | None, ...]] | None:
    """The rows that the server makes of this; None where it refuses."""
    pg = connection.pgconn
    assert (
        pg.exec_(f"COPY loaded FROM STDIN WITH ({options or 'FORMAT text'})".encode()).status == pq.ExecStatus.COPY_IN
    )
    pg.put_copy_data(data)
    pg.put_copy_end()
    result = pg.get_result()
    assert result is not None
    while pg.get_result() is not None:
        pass
    if result.status != pq.ExecStatus.COMMAND_OK:
        return None
    found = pg.exec_(b"WITH gone AS (DELETE FROM loaded RETURNING a, b, ctid) SELECT a, b FROM gone ORDER BY ctid")
    assert found.status == pq.ExecStatus.TUPLES_OK, found.error_message
    return [tuple(found.get_value(row, column) for column in (0, 1)) for row in range(found.ntuples)]


def lines(rng: random.Random, delimiter: bytes) -> bytes:
    ending = rng.choice([b"\n", b"\n", b"\r\n"])
    rows = []
    for _ in range(rng.randint(1, 3)):
        fields = [b"".join(rng.choices(_PIECES, k=rng.randint(0, 3))) for _ in range(2)]
        if rng.random() < 0.5:
            fields[rng.randrange(2)] = rng.choice([b'"a,b"', b'"a""\nb"', b"'x\\';'", b"\\N", b"", b"a\\\nb", b"-"])
        rows.append(delimiter.join(fields))
    return ending.join(rows) + rng.choice([ending, b"", ending + b"\\." + ending])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(_OPTIONS)))
def test_rows_are_cut_as_the_server_cuts_them(connection: psycopg.Connection[Any], number: int) -> None:
    """Whatever is cut here is what the server stored, field for field; the rest is `Uncut`."""
    options, text, kind = _OPTIONS[number]
    rng = random.Random(number)
    agreed = 0
    for _ in range(1500):
        data = lines(rng, options.delimiter)
        form = kind(options, 2)
        try:
            rows = list(form.rows(data, True))
        except Uncut:
            continue
        stored = loads(connection, text, data)
        if stored is None:
            continue
        ours = [
            tuple(None if null else form.value(data[start:end]) for start, end, null in row.fields)
            for row in rows
            if row.fields
        ]
        assert ours == stored, data
        agreed += bool(ours)
    assert agreed > 100


@pytest.mark.slow
def test_what_the_server_writes_in_binary_is_cut(connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO loaded VALUES ('x', 'y'), (NULL, ''), ('', NULL)")
    with connection.cursor() as cursor, cursor.copy("COPY loaded TO STDOUT BINARY") as copy:
        data = b"".join(bytes(piece) for piece in copy)
    form = Binary(2)
    rows = [row for row in form.rows(data, True) if row.fields]
    values = [tuple(None if null else form.value(data[a:b]) for a, b, null in row.fields) for row in rows]
    assert values == [(b"x", b"y"), (None, b""), (b"", None)]
    for end in range(len(data)):
        assert [row for row in form.rows(data[:end], False) if row.fields] == [r for r in rows if r.end <= end]
    connection.execute("DELETE FROM loaded")


def test_the_catalog_of_these_tests_has_the_table() -> None:
    assert catalog().relations[("public", "users")].columns["ssn"]

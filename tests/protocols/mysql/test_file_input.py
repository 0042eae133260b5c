"""What a client sends for LOAD DATA LOCAL, on record: cut as the server cuts it, masked fields gone, or not kept."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from guard.record.redact import redact_params
from protocols.contract import MaskRule
from protocols.intake import Uncut
from protocols.mysql.capabilities import Capability
from protocols.mysql.file_input import Lines, clauses
from protocols.mysql.state import SessionState
from protocols.mysql.statements.lexer import Unreadable
from scripts.support.mysql import SUPERUSER, MySQLServer
from tests.support import mysql_wire as wire
from tests.support.mysql_talk import SSN, Talk, anything
from tests.support.mysql_wire import packets, query

SECRET = b"078-05-1120"
LOAD = "LOAD DATA LOCAL INFILE '/tmp/a' INTO TABLE "


def talk_of(masks: list[MaskRule] | None = None, **given: Any) -> Talk:
    masks = [SSN] if masks is None else masks
    return Talk(anything, masks=masks, capabilities=wire.MODERN | Capability.LOCAL_FILES, **given)


def load(talk: Talk, sql: str, *data: bytes) -> dict[str, Any]:
    """The response record of one load of this content; the server gets it as it is."""
    talk.client(query(sql))
    talk.server(packets(1, b"\xfb/tmp/a"))
    sent = packets(2, *data, b"")
    assert talk.client(sent) == sent
    talk.server(packets(3 + len(data), wire.ok(1)))
    return talk.last()


def kept(record: dict[str, Any]) -> bytes:
    return base64.b64decode(record.get("input", ""))


@pytest.mark.parametrize(
    ("clause", "data", "expected"),
    [
        ("", b"1\t078-05-1120\tAda\n2\t\\N\tBob", b"1\t[redacted]\tAda\n2\t\\N\tBob"),
        (" (ssn, id)", b"078-05-1120\t1\n", b"[redacted]\t1\n"),
        (" (name)", b"Ada\n", b"Ada\n"),
        (" (@x, `SSN`) SET name = @x", b"Ada\t078\n", b"[redacted]\t[redacted]\n"),
        (
            " CHARACTER SET utf8mb4 FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' LINES TERMINATED BY '\\r\\n'",
            b'1,"078,05\r\n""1120",\xc3\xa9\r\n2,NULL,"NULL"\r\n',
            b"1,[redacted],\xc3\xa9\r\n2,NULL,\"NULL\"\r\n",
        ),
        (" COLUMNS TERMINATED BY 0x2c2c ESCAPED BY ''", b"1,,078\\,,x\n", b"1,,[redacted],,x\n"),
        (" FIELDS TERMINATED BY ',' IGNORE 1 LINES", b"id,ssn,name\n1,078,x\n", b"id,ssn,name\n1,[redacted],x\n"),
        (" FIELDS TERMINATED BY ',' IGNORE 1 ROWS", b"1,078-05-1120,name\n", b"1,[redacted],name\n"),
        ("", b"1\t07\\\t8\\\n-05\tAda\n", b"1\t[redacted]\tAda\n"),
    ],
)  # fmt: skip
def test_fields_of_masked_columns_are_replaced_and_the_rest_is_on_record(
    clause: str, data: bytes, expected: bytes
) -> None:
    record = load(talk_of(), f"{LOAD}users{clause}", data[:3], data[3:])
    assert kept(record) == expected
    assert "input_withheld" not in record


def test_the_record_says_which_columns_are_masked() -> None:
    record = load(talk_of(), f"{LOAD}app.users (@who, ssn) SET name = @who", b"Ada\t078\n")
    assert record["input_columns"] == [{"name": "", "masked": "hide-ssn"}, {"name": "ssn", "masked": "hide-ssn"}]


@pytest.mark.parametrize(
    ("clause", "data", "why"),
    [
        ("", b"1\t078-05-1120\n", "another number"),
        ("", b"1\tx\ty\t078-05-1120\n", "another number"),
        (" FIELDS TERMINATED BY ',' IGNORE 1 LINES", b"078-05-1120\n", "another number"),
        (" FIELDS TERMINATED BY ',' ENCLOSED BY '\"' IGNORE 1 LINES", b'id,"078-05-1120",x\n', "quotes or escapes"),
        (" FIELDS TERMINATED BY ',' ENCLOSED BY '\"'", b'1,"078-05-1120"x,y\n', "is said to be"),
        (" FIELDS TERMINATED BY ',' ENCLOSED BY '\"'", b'1,"078-05-1120,y\n', "is said to be"),
        (" FIELDS TERMINATED BY ''", b"078-05-1120\n", "end of their own"),
        (" FIELDS TERMINATED BY '\\n'", b"078-05-1120\n", "end of their own"),
        (" FIELDS ESCAPED BY '\\t'", b"1\t078-05-1120\tx\n", "told from"),
        (" LINES STARTING BY 'x'", b"x1\t078-05-1120\tx\n", "start with"),
        (" CHARACTER SET gbk", b"1\t078-05-1120\tx\n", "character set `gbk`"),
        ("", b"1\t078-05-1120\t\xc3\xa9\n", "CHARACTER SET"),
        (" CHARACTER SET utf8mb4", b"1\t078-05-1120\t\xc3\n", "not in the character set"),
        (" (id, nothing, ssn)", b"1\t2\t078-05-1120\n", "not known"),
        (" FIELDS TERMINATED BY 'ü'", b"078-05-1120\n", "plain ASCII"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_for_certain_is_withheld_and_the_record_says_so(clause: str, data: bytes, why: str) -> None:
    record = load(talk_of(), f"{LOAD}users{clause}", data)
    assert SECRET not in kept(record)
    assert why in record["input_withheld"]
    assert "078" not in record["input_withheld"]


def test_a_table_that_a_temporary_one_may_hide_is_withheld() -> None:
    talk = talk_of()
    talk.client(query("CREATE TEMPORARY TABLE users (ssn TEXT, id INT, name TEXT)"))
    talk.server(packets(1, wire.ok()))
    assert load(talk, f"{LOAD}users", b"078-05-1120\t1\tAda\n")["input_withheld"]
    assert SECRET not in kept(talk.last())


def test_a_table_without_masks_is_kept_as_it_is_whatever_its_rows_look_like() -> None:
    for masks in ([], [SSN]):
        record = load(talk_of(masks), f"{LOAD}orders FIELDS TERMINATED BY ''", b'1\xff"\r\n\\')
        assert kept(record) == b'1\xff"\r\n\\'
        assert "input_columns" not in record


def test_without_names_nothing_is_kept() -> None:
    talk = talk_of()
    talk.port.snapshot = None
    talk.client(query(f"{LOAD}users"))
    talk.session.resume(None)
    talk.server(packets(1, b"\xfb/tmp/a"))
    talk.client(packets(2, b"1\t078-05-1120\tAda\n", b""))
    talk.server(packets(4, wire.ok(1)))
    assert "input" not in talk.last()
    assert talk.last()["input_withheld"]


@pytest.mark.parametrize(
    ("clause", "row"),
    [
        ("", b"1\t078-05-1120\tA\\\tda\\\n\n"),
        (" FIELDS TERMINATED BY '::' ENCLOSED BY '\"' LINES TERMINATED BY '\\r\\n'", b'1::078-05-1120::"A""\r\n:"\r\n'),
    ],
)  # fmt: skip
def test_at_the_limit_the_last_row_is_left_out(clause: str, row: bytes) -> None:
    for limit in range(1, 3 * len(row)):
        talk = talk_of(response_max=limit)
        talk.client(query(f"{LOAD}users{clause}"))
        talk.server(packets(1, b"\xfb/tmp/a"))
        talk.client(packets(2, row * 3, b""))
        talk.server(packets(4, wire.ok(1)))
        room = talk.session.limits.response_max
        expected = row.replace(SECRET, b"[redacted]") * (room // len(row))
        assert kept(talk.last()) == expected, limit
        assert "input_withheld" not in talk.last(), limit


def test_secrets_are_known_by_their_form_and_by_their_column() -> None:
    talk = talk_of([])
    talk.port.redact_params = redact_params  # type: ignore[assignment,method-assign]
    record = load(talk, f"{LOAD}orders", b"1\tpostgres://me:hunter2@db/x\n2\tplain\n")
    assert kept(record) == b"1\t[redacted]\n2\tplain\n"
    assert kept(load(talk, f"{LOAD}accounts (id, api_key)", b"1\tabc\n")) == b"1\t[redacted]\n"


def test_the_statement_s_own_rules_of_escaping_hold() -> None:
    state = SessionState(flavour="mysql", version=(9, 7, 0), database="app")
    assert clauses(f"{LOAD}t".encode(), state).escape == b"\\"
    plain = SessionState(
        flavour="mysql", version=(9, 7, 0), database="app", sql_mode=frozenset({"NO_BACKSLASH_ESCAPES"})
    )
    found = clauses(f"{LOAD}t FIELDS TERMINATED BY '\\' LINES TERMINATED BY '|'".encode(), plain)
    assert (found.escape, found.separator, found.ending) == (b"", b"\\", b"|")
    for odd in ("PARTITION (p) WHAT", "IGNORE x LINES", "(a b)", "(a, 'b')", "FIELDS TERMINATED BY x"):
        with pytest.raises((Uncut, Unreadable)):
            clauses(f"{LOAD}t {odd}".encode(), state)


# ---------------------------------------------------------------- against servers

_FORMS = [
    "",
    "FIELDS TERMINATED BY ',' ENCLOSED BY '\"'",
    "FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' ESCAPED BY ''",
    "FIELDS TERMINATED BY '::' ENCLOSED BY '-' ESCAPED BY 'e' LINES TERMINATED BY '\\r\\n'",
    "FIELDS TERMINATED BY ';' IGNORE 1 LINES",
]
_PIECES = [
    b"a", b"b", b"e", b"N", b"NULL", b"-", b"--", b":", b"::", b";", b",", b"\t", b'"', b'""', b"\\", b"\\N", b"\\t",
    b"\n", b"\r", b"\r\n", b"\xc3\xa9", b"0",
]  # fmt: skip


@pytest.fixture(scope="module")
def connection(mysql_server: MySQLServer) -> Iterator[Any]:
    found = pymysql.connect(
        unix_socket=str(mysql_server.socket),
        user=SUPERUSER,
        password=mysql_server.password,
        database="shop",
        local_infile=True,
        autocommit=True,
    )
    with found:
        with found.cursor() as cursor:
            cursor.execute("SET GLOBAL local_infile = 1")
            cursor.execute("CREATE TABLE loaded (n INT AUTO_INCREMENT PRIMARY KEY, a BLOB, b BLOB)")
        yield found
        with found.cursor() as cursor:
            cursor.execute("DROP TABLE loaded")


def lines(rng: random.Random, separator: bytes, ending: bytes) -> bytes:
    rows = []
    for _ in range(rng.randint(1, 4)):
        fields = [b"".join(rng.choices(_PIECES, k=rng.randint(0, 3))) for _ in range(2)]
        if rng.random() < 0.6:
            fields[rng.randrange(2)] = rng.choice([b'"a,b"', b'"a""\nb"', b"-x--::y-", b"\\N", b"", b"a\\\nb", b"NULL"])
        rows.append(separator.join(fields))
    return ending.join(rows) + rng.choice([ending, b""])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(_FORMS)))
def test_rows_are_cut_as_the_server_cuts_them(connection: Any, number: int, tmp_path: Path) -> None:
    """Whatever is cut here is what the server stored, field for field, without a warning; the rest is `Uncut`."""
    rng = random.Random(number)
    path = tmp_path / "rows"
    text = f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE loaded CHARACTER SET utf8mb4 {_FORMS[number]} (a, b)"
    state = SessionState(flavour="mysql", version=(9, 7, 0), database="shop")
    given = clauses(text.encode(), state)
    agreed = 0
    with connection.cursor() as cursor:
        for _ in range(400):
            data = lines(rng, given.separator, given.ending)
            form = Lines(given, 2)
            try:
                rows = [row for row in form.rows(data, True) if not row.heading]
            except Uncut:
                continue
            path.write_bytes(data)
            cursor.execute("DELETE FROM loaded")
            cursor.execute(text)
            cursor.execute("SELECT a, b FROM loaded ORDER BY n")
            stored = list(cursor.fetchall())
            ours = [
                tuple(None if null else form.value(data[start:end]) for start, end, null in row.fields) for row in rows
            ]
            assert ours == stored, data
            agreed += bool(ours)
    assert agreed > 40

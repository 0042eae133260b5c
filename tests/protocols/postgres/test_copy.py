"""COPY OUT in its three formats: any chunking, any options, malformed streams."""

from __future__ import annotations

import csv
import io
import itertools
import struct
from collections.abc import Sequence

import pgparse  # type: ignore[import-not-found]  # compiled, without stubs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.mask import Masker, MaskPlan
from protocols.contract import MaskRule, Origin, ResultColumn, ResultShape
from protocols.postgres.copy import CopyMasker, CopyOptions, MaskError

KEY = b"k" * 32
TEXT_TYPE = (25, -1)


def plan_for(width: int, masked: Sequence[int], strategy: str = "redact") -> MaskPlan:
    rule = MaskRule("r", ("public.t.secret",), (), strategy)
    columns = tuple(
        ResultColumn("c", Origin.KNOWN, ("public.t.secret" if i in masked else f"public.t.c{i}",)) for i in range(width)
    )
    plan = Masker((rule,), KEY).plan(ResultShape(columns))
    assert plan is not None
    return plan


def options_of(statement: str, width: int = 0) -> CopyOptions:
    tree = pgparse.parse(statement)[0]["stmt"]["CopyStmt"]
    return CopyOptions.from_tree(tree, (TEXT_TYPE,) * width)


def run(
    statement: str,
    width: int,
    masked: Sequence[int],
    chunks: Sequence[bytes],
    strategy: str = "redact",
    cap: int = 1 << 20,
) -> bytes:
    masker = CopyMasker(plan_for(width, masked, strategy), options_of(statement, width), None, "UTF8", cap)
    out = [body for chunk in chunks for body in masker.feed(chunk)]
    out += masker.end()
    return b"".join(out)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({p % (len(data) + 1) for p in places}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("COPY t TO STDOUT", CopyOptions()),
        ("COPY t TO STDOUT BINARY", CopyOptions(format="binary")),
        ("COPY t TO STDOUT WITH (FORMAT csv)", CopyOptions("csv", b",", b"")),
        ("COPY t TO STDOUT CSV HEADER", CopyOptions("csv", b",", b"", header=True)),
        (
            "COPY t TO STDOUT (FORMAT csv, DELIMITER ';', QUOTE '''', HEADER true, NULL 'nil', FORCE_QUOTE *)",
            CopyOptions("csv", b";", b"nil", b"'", b"'", True),
        ),
        (
            "COPY t TO STDOUT (FORMAT csv, ESCAPE '\\', ENCODING 'latin1', HEADER off)",
            CopyOptions("csv", b",", b"", b'"', b"\\", False, "latin1"),
        ),
        ("COPY t TO STDOUT DELIMITER '|' NULL ''", CopyOptions("text", b"|", b"")),
        ("COPY t TO STDOUT (HEADER 1)", CopyOptions(header=True)),
    ],
)
def test_options(statement: str, expected: CopyOptions) -> None:
    assert options_of(statement) == expected


@pytest.mark.parametrize(
    "statement",
    [
        "COPY t TO STDOUT (FORMAT 'json')",
        "COPY t TO STDOUT (FORMAT csv, COMPRESSION gzip)",
        "COPY t TO STDOUT (HEADER match)",
        "COPY t TO STDOUT (HEADER 2)",
        "COPY t TO STDOUT (DELIMITER 'ab')",
        "COPY t TO STDOUT (FORMAT csv, QUOTE '')",
        "COPY t TO STDOUT (FORMAT (a, b))",
    ],
)
def test_options_that_are_not_known_are_refused(statement: str) -> None:
    with pytest.raises(MaskError):
        options_of(statement)


def test_an_encoding_that_hides_ascii_bytes_is_refused() -> None:
    plan = plan_for(1, [0])
    for encoding in ("SJIS", "GBK", "KLINGON"):
        with pytest.raises(MaskError, match="client_encoding"):
            CopyMasker(plan, CopyOptions(types=(TEXT_TYPE,)), None, encoding)
    with pytest.raises(MaskError, match="client_encoding"):
        CopyMasker(plan, CopyOptions(encoding="gb18030"), None, "UTF8")


def test_unknown_options_and_widths_are_refused() -> None:
    with pytest.raises(MaskError, match="not known"):
        CopyMasker(plan_for(1, [0]), None, None, "UTF8")
    with pytest.raises(MaskError, match="types"):
        CopyMasker(plan_for(2, [0]), CopyOptions(types=(TEXT_TYPE,)), None, "UTF8")


def test_columns_of_unknown_type_become_null() -> None:
    masker = CopyMasker(plan_for(2, [0]), CopyOptions(), None, "UTF8")
    assert masker.feed(b"secret\tx\n") == [b"\\N\tx\n"]


# ---------------------------------------------------------------- text


def write_text(rows: Sequence[Sequence[str | None]], delimiter: str = "\t", null: str = "\\N") -> bytes:
    names = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v", "\\": "\\", delimiter: delimiter}
    if delimiter == "\t":
        names["\t"] = "t"

    def field(value: str | None) -> str:
        return null if value is None else "".join("\\" + names[c] if c in names else c for c in value)

    return "".join(delimiter.join(map(field, row)) + "\n" for row in rows).encode()


values = st.one_of(st.none(), st.text(alphabet="aZ9 \t\n\r\\|,;\"'Nü.\b\v", max_size=8))
tables = st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(values, min_size=n, max_size=n), min_size=1, max_size=6))


@given(tables, st.sampled_from(["\t", "|", "N"]), st.lists(st.integers(0, 500), max_size=8))
def test_text(rows: list[list[str | None]], delimiter: str, places: list[int]) -> None:
    width = len(rows[0])
    null = "nil" if delimiter == "N" else "\\N"
    # `nil` needs no escape, so a value of these letters is NULL on the wire; `\N` is escaped and is none
    masked = [row[0] is not None and not (row[0] == null == "nil") for row in rows]
    expected = [[*(["[masked]"] if hide else [None]), *row[1:]] for hide, row in zip(masked, rows, strict=True)]
    statement = f"COPY t TO STDOUT (DELIMITER E'{'\\t' if delimiter == '\t' else delimiter}', NULL '{null}')"
    data = write_text(rows, delimiter, null)
    assert run(statement, width, [0], cut(data, places)) == write_text(expected, delimiter, null)


def test_text_escapes_in_a_masked_value() -> None:
    out = run("COPY t TO STDOUT", 2, [1], [b"a\\tb\tA\\\\1\\n\\N\\b\tx\n".replace(b"\tx", b"")], "tokenise")
    first, second = out.rstrip(b"\n").split(b"\t")
    assert first == b"a\\tb"
    assert second[1:3] == b"\\\\"
    assert b"\\n" in second
    assert second.endswith(b"\\b")


def test_text_header_stays() -> None:
    assert run("COPY t TO STDOUT (HEADER)", 2, [0], [b"id\tssn\n1\t2\n"]) == b"id\tssn\n[masked]\t2\n"


@pytest.mark.parametrize(
    "chunks",
    [
        [b"a\n"],
        [b"a\tb\tc\n"],
        [b"a\tb"],
        [b"\\.\n"],
        [b"a\tb\\"],
        [b"x" * 200, b"x" * 200],
        [b"x" * 400 + b"\ty\n"],
    ],
)
def test_malformed_text(chunks: list[bytes]) -> None:
    with pytest.raises(MaskError):
        run("COPY t TO STDOUT", 2, [0], chunks, cap=300)


def test_rows_leave_as_they_come() -> None:
    masker = CopyMasker(plan_for(2, [0]), CopyOptions(types=(TEXT_TYPE,) * 2), None, "UTF8")
    assert masker.feed(b"a\tb\n") == [b"[masked]\tb\n"]
    assert masker.feed(b"a\t") == []
    assert masker.feed(b"") == []
    assert masker.feed(b"b\nc\td\ne") == [b"[masked]\tb\n[masked]\td\n"]
    assert masker.feed(b"\tf\n") == [b"[masked]\tf\n"]
    assert masker.end() == []


# ---------------------------------------------------------------- csv


def write_csv(rows: Sequence[Sequence[str | None]], escape: str = '"', force: bool = False) -> bytes:
    def field(value: str | None) -> str:
        if value is None:
            return ""
        if not (force or value in ("", "\\.") or any(c in value for c in ',"\r\n')):
            return value
        return '"' + "".join(escape + c if c in ('"', escape) else c for c in value) + '"'

    return "".join(",".join(map(field, row)) + "\n" for row in rows).encode()


@given(tables, st.sampled_from(['"', "\\"]), st.booleans(), st.lists(st.integers(0, 500), max_size=8))
def test_csv(rows: list[list[str | None]], escape: str, force: bool, places: list[int]) -> None:
    width = len(rows[0])
    last = width - 1
    expected = [[*row[:last], None if row[last] is None else "[masked]"] for row in rows]
    statement = f"COPY t TO STDOUT (FORMAT csv, ESCAPE '{escape}')"
    out = run(statement, width, [last], cut(write_csv(rows, escape, force), places))
    if escape == '"':
        read = list(csv.reader(io.StringIO(out.decode(), newline="")))
        wanted = list(csv.reader(io.StringIO(write_csv(expected, force=force).decode(), newline="")))
        assert [r or [""] for r in read] == [r or [""] for r in wanted]
    for row, line in zip(rows, expected, strict=True):
        if row[last] is not None:
            assert line[last] == "[masked]"
    assert out.count(b"[masked]") == sum(row[last] is not None for row in rows)


@given(tables, st.sampled_from(['"', "\\"]), st.booleans(), st.lists(st.integers(0, 500), max_size=8))
def test_csv_of_columns_that_are_not_masked_stays_byte_for_byte(
    rows: list[list[str | None]], escape: str, force: bool, places: list[int]
) -> None:
    rows = [[None, *row] for row in rows]
    data = write_csv(rows, escape, force)
    assert run(f"COPY t TO STDOUT (FORMAT csv, ESCAPE '{escape}')", len(rows[0]), [0], cut(data, places)) == data


def test_csv_values_over_several_lines_and_header() -> None:
    data = b'id,"a\nb"\n1,"x,\n""y"""\n2,\n3,""\n'
    statement = "COPY t TO STDOUT (FORMAT csv, HEADER)"
    expected = b'id,"a\nb"\n1,"[masked]"\n2,\n3,"[masked]"\n'
    for i in range(len(data)):
        assert run(statement, 2, [1], [data[:i], data[i:]]) == expected


def test_csv_value_that_would_read_as_null_or_end_is_quoted() -> None:
    # a null string that equals the placeholder must not turn a masked value into NULL
    assert run("COPY t TO STDOUT (FORMAT csv, NULL '[masked]')", 1, [0], [b"x\n"]) == b'"[masked]"\n'
    assert run("COPY t TO STDOUT (FORMAT csv, DELIMITER 'm')", 2, [0], [b"xmy\n"]) == b'"[masked]"my\n'


@pytest.mark.parametrize(
    "chunks",
    [
        [b"a\n"],
        [b"a,b,c\n"],
        [b'"a,b\n'],
        [b'"a"x,b\n'],
        [b'a"b",c\n'],
        [b"a,b"],
        [b'"' + b"x" * 200, b"x" * 200],
        [b"a,b\r\n"],
    ],
)
def test_malformed_csv(chunks: list[bytes]) -> None:
    with pytest.raises(MaskError):
        run("COPY t TO STDOUT (FORMAT csv)", 2, [0], chunks, cap=300)


# ---------------------------------------------------------------- binary

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
HEAD = SIGNATURE + struct.pack("!II", 0, 0)
TRAILER = struct.pack("!h", -1)


def write_binary(rows: Sequence[Sequence[bytes | None]], head: bytes = HEAD, trailer: bytes = TRAILER) -> bytes:
    def field(value: bytes | None) -> bytes:
        return struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value

    return head + b"".join(struct.pack("!h", len(row)) + b"".join(map(field, row)) for row in rows) + trailer


raw_tables = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.one_of(st.none(), st.binary(max_size=6)), min_size=n, max_size=n), max_size=6)
)


@given(raw_tables, st.lists(st.integers(0, 500), max_size=8), st.integers(0, 20))
def test_binary(rows: list[list[bytes | None]], places: list[int], extension: int) -> None:
    width = len(rows[0]) if rows else 2
    head = SIGNATURE + struct.pack("!II", 0, extension) + b"e" * extension
    expected = [[None if row[0] is None else b"[masked]", *row[1:]] for row in rows]
    out = run("COPY t TO STDOUT BINARY", width, [0], cut(write_binary(rows, head), places))
    assert out == write_binary(expected, head)


def test_binary_one_byte_at_a_time() -> None:
    data = write_binary([[b"secret", None, b"x"], [None, b"", b"y" * 50]])
    out = run("COPY t TO STDOUT BINARY", 3, [0], [data[i : i + 1] for i in range(len(data))])
    assert out == write_binary([[b"[masked]", None, b"x"], [None, b"", b"y" * 50]])


@pytest.mark.parametrize(
    "data",
    [
        b"NOTCOPY" + HEAD[7:] + TRAILER,
        HEAD,
        HEAD[:10],
        SIGNATURE + struct.pack("!II", 1 << 16, 0) + TRAILER,
        SIGNATURE + struct.pack("!II", 0, 1 << 20) + TRAILER,
        write_binary([[b"a"]]),
        write_binary([[b"a", b"b", b"c"]]),
        write_binary([]) + b"x",
        HEAD + struct.pack("!hi", 2, -2),
        HEAD + struct.pack("!hi", 2, 1 << 30),
        HEAD + struct.pack("!hi", 2, 5) + b"ab",
        HEAD + struct.pack("!h", -2),
        write_binary([[b"a" * 400, b"b"]]),
    ],
)
def test_malformed_binary(data: bytes) -> None:
    with pytest.raises(MaskError):
        run("COPY t TO STDOUT BINARY", 2, [0], [data], cap=300)


def test_binary_data_after_the_trailer() -> None:
    with pytest.raises(MaskError, match="follow"):
        run("COPY t TO STDOUT BINARY", 2, [0], [write_binary([]), b"x"])


@given(st.binary(max_size=120), st.sampled_from(["BINARY", "CSV", ""]), st.lists(st.integers(0, 200), max_size=4))
def test_any_bytes_give_rows_or_a_typed_error(data: bytes, form: str, places: list[int]) -> None:
    secret = b"HUSHHUSH"
    data = data.replace(b"H", b"") + secret
    try:
        out = run(f"COPY t TO STDOUT {form}", 1, [0], cut(data, places), "null")
    except MaskError:
        return
    assert secret not in out

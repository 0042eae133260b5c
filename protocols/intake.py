"""What a client loads into a table (COPY FROM STDIN, LOAD DATA LOCAL), as it goes on record.

The beginning of it is kept, up to the configured size. Fields of columns that a mask covers, and values whose form or
whose column's name says that they are secrets, are replaced. Where it is not certain which bytes are which field, what
comes from there on is left out, and the record says why. What goes to the server is never touched.

INVARIANT: no I/O in this module. A row is kept only if it was cut exactly as the server cuts it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import orjson

from protocols.contract import MaskPlan, SessionPort
from protocols.records import SECRET_VALUES

BLANK = b"[redacted]"
# what is cut: it is done at once, and other sessions wait for it
MOST = 1 << 18  # bytes
MOST_FIELDS = 20_000
_SO_MUCH = "only so much of it is cut into fields"


class Uncut(Exception):
    """From here on it is not certain which bytes are which field; the message says why, in lower case, no values."""


class Row(NamedTuple):
    """`data[start:end]`, its terminator included. `fields`: (start, end, whether it is NULL) of each.

    `heading`: the columns' names stand here, or anything else: the server does not read it as values.
    """

    start: int
    end: int
    fields: tuple[tuple[int, int, bool], ...]
    heading: bool = False


class Format(Protocol):
    """How one load writes its rows."""

    @property
    def blank(self) -> bytes:
        """What stands for a field that is replaced."""

    def rows(self, data: bytes, complete: bool) -> Iterator[Row]:
        """Whole rows, in order, without gaps; bytes that are no row's are left out. Raises `Uncut`.

        Each has as many fields as the load has columns, or none: then it is a mark of its format's, and no row.

        `complete`: nothing follows these bytes.
        """

    def value(self, raw: bytes) -> bytes:
        """A field without its quotes and escapes."""


@dataclass(frozen=True, slots=True)
class Column:
    """Where a field goes: `rule` masks it for this identity, or `secret` as its name says."""

    name: str
    rule: str | None = None
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Intake:
    """How one load may be kept. `columns` are the fields' in order; `format` None: not at all, for the reason `why`."""

    columns: tuple[Column, ...] = ()
    format: Format | None = None
    why: str = ""
    clear: bool = False  # no mask is about it: what cannot be cut stays as it is, unless a secret may be in it

    @property
    def hides(self) -> bool:
        return not self.clear or any(column.rule is not None or column.secret for column in self.columns)

    def fields(self, parts: Sequence[bytes], complete: bool, port: SessionPort) -> bytes:
        """`,"input":"..."` and what else a response record says of what the client sent. Never raises."""
        data = b"".join(parts)
        kept, why = _kept(self, data, complete, port)
        out = b',"input":"%b"' % b64encode(kept) if kept else b""
        if why:
            out += b',"input_withheld":' + orjson.dumps(why)
        if any(column.rule is not None for column in self.columns):
            shown = [{"name": column.name, "masked": column.rule} for column in self.columns]
            out += b',"input_columns":' + orjson.dumps(shown)
        return out


_UNASKED = {masking: Intake(why="the server never asked for it", clear=not masking) for masking in (True, False)}


def unasked(masking: bool) -> Intake:
    """Of what came before the server asked for it: then it says what that is, or refuses it."""
    return _UNASKED[masking]


def columns(names: Sequence[str], plan: MaskPlan | None, port: SessionPort) -> tuple[Column, ...]:
    """The columns of a load, with the masks of `plan` (None: none is masked)."""
    masks = plan.columns if plan is not None else (None,) * len(names)
    return tuple(
        Column(name, mask.rule if mask is not None else None, _says_secret(name, port))
        for name, mask in zip(names, masks, strict=True)
    )


def _says_secret(name: str, port: SessionPort) -> bool:
    """As a parameter for a column of this name would be redacted."""
    text = f'INSERT INTO t ("{name}") VALUES ($1)'  # noqa: S608 - it is sent nowhere
    return port.redact_params(text, ("x",)) != ("x",)


def _kept(intake: Intake, data: bytes, complete: bool, port: SessionPort) -> tuple[bytes, str]:
    """-> (what may be kept, why the rest may not)."""
    suspect = SECRET_VALUES.search(data) is not None
    if intake.clear and not suspect and not intake.hides:
        return data, ""
    if intake.format is None:
        return b"", intake.why
    whole = len(data) <= MOST
    data, complete = data[:MOST], complete and whole
    out: list[bytes] = []
    hidden = [index for index, column in enumerate(intake.columns) if column.rule is not None or column.secret]
    left = MOST_FIELDS
    try:
        for row in intake.format.rows(data, complete):
            left -= len(row.fields) + 1
            if left < 0:
                raise Uncut(f"{_SO_MUCH}: {MOST_FIELDS} fields")
            if row.heading or (suspect and SECRET_VALUES.search(data, row.start, row.end) is not None):
                out.append(_row(intake, intake.format, data, row, port))
                continue
            at = row.start
            fields = row.fields
            for index in hidden if fields else ():
                start, end, null = fields[index]
                if not null:
                    out += (data[at:start], intake.format.blank)
                    at = end
            out.append(data[at : row.end])
    except Uncut as e:
        return b"".join(out), str(e)
    return b"".join(out), "" if whole else f"{_SO_MUCH}: {MOST} bytes"


def _row(intake: Intake, form: Format, data: bytes, row: Row, port: SessionPort) -> bytes:
    """A row that is no usual one: each of its values is looked at."""
    pieces: list[bytes] = []
    at = row.start
    for index, (start, end, null) in enumerate(row.fields):
        if null or not _hidden(intake.columns[index], form, data[start:end], row.heading, port):
            continue
        pieces += (data[at:start], form.blank)
        at = end
    pieces.append(data[at : row.end])
    return b"".join(pieces)


def _hidden(column: Column, form: Format, raw: bytes, heading: bool, port: SessionPort) -> bool:
    if column.rule is not None or column.secret:
        # a heading is anything that the client likes, unless it is the column's name
        return not heading or form.value(raw).decode("utf-8", "replace") != column.name
    value = form.value(raw).decode("utf-8", "replace")
    return port.redact_params("", (value,)) != (value,)

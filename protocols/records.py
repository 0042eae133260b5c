"""What sessions of any wire protocol put on record: finished JSON objects, from parts that are made once per statement.

Field names are those of the journal (docs/reference/journal.md). Nothing here may hold a token, a credential or a value
that a mask covers: `wire` is what the client saw, after masking.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Sequence
from typing import Protocol

import orjson

from protocols.contract import Analysis, Decision, RecordFailed, SessionPort

MAX_PARAM = 1024  # characters of one parameter that are put on record
# what the record's redaction looks for in bind values, as a superset: without it only a value's place makes it secret
SECRET_VALUES = re.compile(rb"://|-----|(?i:passw|pwd|bearer)")
SUSPECT = re.compile(rb"[:\-wWrR]")  # one of these is in whatever `SECRET_VALUES` finds: a quick first look
MAX_TEXT = 1 << 24  # characters of one statement, all that is judged by default; longer ones are cut and say so


def command_static(analysis: Analysis, decision: Decision, shape: str) -> bytes:
    """The part of a command record that depends on the statement's shape and its decision only.

    `shape` is the analysis's with secrets redacted: a parser may leave some literals in it (`PASSWORD U&'...'`).
    """
    body = orjson.dumps(
        {
            "kind": analysis.kind,
            "effects": sorted(analysis.effects | decision.adds),
            "reads": analysis.reads,
            "writes": analysis.writes,
            "columns": analysis.columns,
            "decision": decision.action.label,
            "rule": decision.rule,
            "why": decision.why or analysis.why,
            "shape": shape,
        }
    )
    return body[1:-1]


def text_field(text: str) -> bytes:
    """`,"text":"..."` with the text cut at `MAX_TEXT`."""
    if len(text) > MAX_TEXT:
        return b',"text":' + orjson.dumps(text[:MAX_TEXT]) + b',"text_cut":%d' % len(text)
    return b',"text":' + orjson.dumps(text)


def command(
    session: bytes, number: int, at_ns: int, phase: bytes, fixed: bytes, extra: bytes = b"", params: bytes = b""
) -> bytes:
    """One command record: `fixed` is `command_static` plus `text_field`; `extra` and `params` begin with a comma."""
    return b'{"t":"command","at":%d,"s":"%b","n":%d,"phase":"%b",%b%b%b}' % (
        at_ns,
        session,
        number,
        phase,
        fixed,
        extra,
        params,
    )


def response(
    session: bytes,
    number: int,
    at_ns: int,
    status: bytes,
    rows: int,
    size: int,
    micros: int,
    tag: bytes,
    wire: Sequence[bytes],
    truncated: bool,
    columns: bytes = b"",
    extra: bytes = b"",
) -> bytes:
    """One response record. `size` counts the bytes that went to the client, `wire` is its capped beginning."""
    return (
        b'{"t":"response","at":%d,"s":"%b","n":%d,"status":"%b","rows":%d,"bytes":%d,"us":%d,"tag":%b,"truncated":%b,'
        b'"wire":"%b"%b%b}'
        % (
            at_ns,
            session,
            number,
            status,
            rows,
            size,
            micros,
            orjson.dumps(tag.decode("utf-8", "replace")) if tag else b'""',
            b"true" if truncated else b"false",
            b2a_base64(wire[0] if len(wire) == 1 else b"".join(wire), newline=False),
            columns,
            extra,
        )
    )


class Kept(Protocol):
    """What becomes of a client's input: `protocols.intake.Intake`."""

    @property
    def hides(self) -> bool:
        """Whether fields of it are, or may have to be, replaced for what their columns are."""

    def fields(self, parts: Sequence[bytes], complete: bool, port: SessionPort) -> bytes:
        """Members of the response record, each behind a comma. Never raises."""


class Answered:
    """What is gathered of the answer to one command until it is complete. Sessions keep more of it in a subclass.

    Defaults stand on the class: most answers set few of these, and one is made for every message.
    """

    number = 0  # of its command record; 0: not on record
    started = 0  # ns
    judged = 0  # ns: when its verdict was made, where it has been started anew since
    rows = 0
    size = 0  # bytes
    parts: tuple[bytes, ...] | list[bytes] = ()  # the capped beginning of the response
    input: tuple[bytes, ...] | list[bytes] = ()  # the capped beginning of what the client sent for it
    intake: Kept | None = None  # how much of that may be kept
    room = 0  # bytes that still go into `parts`; below 0: it was cut
    columns = b""  # of the response record
    tag = b""


_Late = tuple[bytes, int, int, bytes, int, int, int, bytes, Sequence[bytes], bool, bytes, bytes]  # for `response`


class Recording:
    """What a wire session puts on record: each command before it goes up, each answer once it is on its way down.

    The records stay in the order in which things happened. Mixed into the base of a protocol's session.
    """

    session_id: bytes
    port: SessionPort
    late: list[_Late]  # answers whose records are still to be made

    def unrecorded(self) -> None:
        raise NotImplementedError

    def catch_up(self) -> None:
        """See `protocols.contract.Session`."""
        try:
            self._record_late()
        except RecordFailed:
            self.unrecorded()

    def _record_late(self) -> None:
        late, self.late = self.late, []
        for answer in late:
            self.port.record("response", response(*answer))

    def _record_command(self, body: bytes) -> None:
        """Raises `RecordFailed`."""
        if self.late:
            self._record_late()
        self.port.record("command", body)

    def _finish(self, entry: Answered, status: bytes, sqlstate: str = "") -> None:
        """Takes what goes on record of an answer, for later. Raises `RecordFailed` where that cannot be."""
        if not entry.number:
            return
        self.port.may_record()
        now = self.port.now_ns()
        extra = (
            b',"sqlstate":' + orjson.dumps(sqlstate) if sqlstate else b""
        )  # the upstream's word: it may hold anything
        if entry.input and entry.intake is not None:
            extra += entry.intake.fields(entry.input, entry.room >= 0, self.port)
            entry.input, entry.intake = (), None
        micros = (now - entry.started) // 1000
        self.late.append(
            (
                self.session_id,
                entry.number,
                now,
                status,
                entry.rows,
                entry.size,
                micros,
                entry.tag,
                entry.parts,
                entry.room < 0,
                entry.columns,
                extra,
            )
        )
        entry.parts = ()
        entry.rows = entry.size = 0

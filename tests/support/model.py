"""A small model of what PostgreSQL's names mean: prepared statements, portals, cursors, transactions, search_path.

It speaks the protocol as the server does (skips to Sync after an error, keeps its answers until it is made to flush)
and answers every SELECT with rows that name the table which was really read. Sources: postgres.c (exec_parse_message
and its siblings), portalmem.c, prepare.c. Only the statements below are known to it; others are syntax errors.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from tests.support import wire

_SELECT = re.compile(r"SELECT (?:\*|\w+ \|\| '') FROM (\w+)$")
_PREPARE = re.compile(r"PREPARE (\w+) AS (SELECT .*)$")
_DECLARE = re.compile(r"DECLARE (\w+) CURSOR FOR (SELECT .*)$")
_NAMED = re.compile(r"(EXECUTE|DEALLOCATE|CLOSE|FETCH FROM|SAVEPOINT|ROLLBACK TO|SET search_path =) \"?(\w+)\"?$")


class ServerError(Exception):
    """An SQLSTATE."""


@dataclass
class Portal:
    text: str
    table: str | None  # what it reads, resolved when it was made; None: no SELECT
    level: int  # savepoints open when it was made
    done: bool = False


@dataclass
class Model:
    status: str = "I"
    statements: dict[str, str] = field(default_factory=dict)
    portals: dict[str, Portal] = field(default_factory=dict)
    path: str = "public"
    before: str | None = None  # search_path when the transaction began
    savepoints: list[tuple[str, str]] = field(default_factory=list)  # (name, search_path)
    skipping: bool = False
    ran: list[str] = field(default_factory=list)  # tables read, in order
    _in: bytes = b""
    _held: list[bytes] = field(default_factory=list)  # answered, not yet flushed
    _out: list[bytes] = field(default_factory=list)

    def feed(self, data: bytes) -> None:
        self._in += data
        while len(self._in) >= 5:
            size = 1 + struct.unpack_from("!I", self._in, 1)[0]
            if len(self._in) < size:
                return
            kind, body, self._in = chr(self._in[0]), self._in[5:size], self._in[size:]
            self._message(kind, body)

    def answers(self) -> list[bytes]:
        out, self._out = self._out, []
        return out

    # ------------------------------------------------------------ messages

    def _message(self, kind: str, body: bytes) -> None:
        if kind == "S":
            self.skipping = False
            if self.status == "I":
                self._end(commit=True)
            self._held.append(wire.ready(self.status))
            self._flush()
            return
        if self.skipping:
            return
        if kind == "H":
            self._flush()
            return
        parts = body.split(b"\0")
        try:
            if kind == "Q":
                self._query(parts[0].decode())
            elif kind == "P":
                self._parse(parts[0].decode(), parts[1].decode())
            elif kind == "B":
                self._bind(parts[0].decode(), parts[1].decode())
            elif kind == "D":
                self._describe(chr(body[0]), parts[0][1:].decode())
            elif kind == "E":
                self._execute(parts[0].decode(), struct.unpack("!i", body[-4:])[0])
            elif kind == "C":
                (self.statements if body[:1] == b"S" else self.portals).pop(parts[0][1:].decode(), None)
                self._held.append(wire.CLOSED)
            else:
                raise AssertionError(f"the model does not know message {kind}")
        except ServerError as e:
            self._abort()
            self._held.append(wire.error(str(e)))
            self.skipping = kind != "Q"
            self._flush()
        if kind == "Q":
            if self.status == "I":
                self._end(commit=True)
            self._held.append(wire.ready(self.status))
            self._flush()

    def _flush(self) -> None:
        self._out.extend(self._held)
        self._held.clear()

    def _query(self, text: str) -> None:
        self.statements.pop("", None)
        self.portals.pop("", None)
        parts = [part.strip() for part in text.split(";") if part.strip()]
        for part in parts:
            self._check(part)  # the raw grammar first, of all of it
        for part in parts:
            self._allowed(part)
            table = self._table(part)
            if table is not None:
                self._held += [wire.columns(wire.field("x")), self._row(table)]
                self._held.append(wire.complete("SELECT 1"))
            else:
                self._run(part)
                self._held.append(wire.complete(part.split()[0]))

    def _parse(self, name: str, text: str) -> None:
        if not name:
            self.statements.pop("", None)
        self._check(text)
        self._allowed(text)
        if name and name in self.statements:
            raise ServerError("42P05")
        self.statements[name] = text
        self._held.append(wire.PARSED)

    def _bind(self, portal: str, statement: str) -> None:
        if statement not in self.statements:
            raise ServerError("26000")
        text = self.statements[statement]
        self._allowed(text)
        if not portal:
            self.portals.pop("", None)
        elif portal in self.portals:
            raise ServerError("42P03")
        self._begin()
        self.portals[portal] = Portal(text, self._table(text), len(self.savepoints))
        self._held.append(wire.BOUND)

    def _describe(self, what: str, name: str) -> None:
        known = self.statements.get(name) if what == "S" else self.portals.get(name)
        if known is None:
            raise ServerError("26000" if what == "S" else "34000")
        if what == "S":
            self._held.append(wire.parameters())
        if isinstance(known, Portal):
            reads = known.table is not None
        else:
            reads = _SELECT.match(known) is not None or known.startswith(("EXECUTE", "FETCH"))
        self._held.append(wire.columns(wire.field("x")) if reads else wire.NO_DATA)

    def _execute(self, name: str, limit: int) -> None:
        portal = self.portals.get(name)
        if portal is None:
            raise ServerError("34000")
        self._allowed(portal.text)
        if portal.table is None:
            if portal.done:
                raise ServerError("55000")
            portal.done = True
            self._run(portal.text)
            self._held.append(wire.complete(portal.text.split()[0]))
        elif portal.done:
            self._held.append(wire.complete("SELECT 0"))
        else:
            portal.done = not limit
            self._held += [self._row(portal.table), wire.SUSPENDED if limit else wire.complete("SELECT 1")]

    def _row(self, table: str) -> bytes:
        self.ran.append(table)
        return wire.row(table.encode())

    # ------------------------------------------------------------ statements

    def _check(self, text: str) -> None:
        known = (_SELECT, _PREPARE, _DECLARE, _NAMED)
        if text not in ("BEGIN", "COMMIT", "ROLLBACK", "DEALLOCATE ALL") and not any(p.match(text) for p in known):
            raise ServerError("42601")

    def _allowed(self, text: str) -> None:
        if self.status == "E" and not text.startswith(("COMMIT", "ROLLBACK")):
            raise ServerError("25P02")

    def _table(self, text: str) -> str | None:
        """The table that a statement reads by the names in force, schema and all; None: no SELECT."""
        if text.startswith("EXECUTE") and (match := _NAMED.match(text)):
            if match[2] not in self.statements:
                raise ServerError("26000")
            text = self.statements[match[2]]
        elif text.startswith("FETCH") and (match := _NAMED.match(text)):
            if match[2] not in self.portals:
                raise ServerError("34000")
            return self.portals[match[2]].table
        select = _SELECT.match(text)
        if select is None:
            return None
        if select[1] == "missing":
            raise ServerError("42P01")
        return f"evil.{select[1]}" if self.path == "evil" and select[1] == "orders" else f"public.{select[1]}"

    def _run(self, text: str) -> None:
        self._begin()
        word, _, _ = text.partition(" ")
        if text == "BEGIN":
            self.status = "T"
        elif text in ("COMMIT", "ROLLBACK"):
            self._end(commit=text == "COMMIT" and self.status != "E")
            self.status = "I"
        elif text == "DEALLOCATE ALL":
            self.statements = {n: t for n, t in self.statements.items() if not n}
        elif match := _PREPARE.match(text):
            if match[1] in self.statements:
                raise ServerError("42P05")
            self._table(match[2])
            self.statements[match[1]] = match[2]
        elif match := _DECLARE.match(text):
            if self.status == "I":
                raise ServerError("25P01")
            if match[1] in self.portals:
                raise ServerError("42P03")
            self.portals[match[1]] = Portal(text, self._table(match[2]), len(self.savepoints))
        elif match := _NAMED.match(text):
            self._named(match[1], match[2])
        else:
            raise ServerError(f"the model cannot run {word}")

    def _named(self, verb: str, name: str) -> None:
        if verb == "DEALLOCATE":
            if name not in self.statements:
                raise ServerError("26000")
            del self.statements[name]
        elif verb == "CLOSE":
            if name not in self.portals:
                raise ServerError("34000")
            del self.portals[name]
        elif verb == "SET search_path =":
            self.path = name
        elif verb == "SAVEPOINT":
            if self.status == "I":
                raise ServerError("25P01")
            self.savepoints.append((name, self.path))
        elif verb == "ROLLBACK TO":
            at = next((i for i in range(len(self.savepoints) - 1, -1, -1) if self.savepoints[i][0] == name), None)
            if at is None:
                raise ServerError("3B001")
            self.path = self.savepoints[at][1]
            del self.savepoints[at + 1 :]
            self._drop(at + 1)
            self.status = "T"

    # ------------------------------------------------------------ transactions

    def _begin(self) -> None:
        if self.before is None:
            self.before = self.path

    def _end(self, *, commit: bool) -> None:
        if not commit and self.before is not None:
            self.path = self.before
        self.before = None
        self.savepoints.clear()
        self.portals.clear()

    def _abort(self) -> None:
        """An error: a block waits for its end, or for its savepoint; anything else is rolled back."""
        if self.status == "I":
            self._end(commit=False)
            return
        self.status = "E"
        if self.savepoints:
            self._drop(len(self.savepoints))
        else:
            self.portals.clear()

    def _drop(self, level: int) -> None:
        self.portals = {n: p for n, p in self.portals.items() if p.level < level}

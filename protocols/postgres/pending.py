"""What a session remembers: answers that are still to come, prepared statements, portals, verdicts."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any

from protocols.contract import Decision
from protocols.postgres.messages import RowDescription
from protocols.postgres.results import RowRewriter
from protocols.postgres.statements import CommandAnalysis


class Kind(enum.IntEnum):
    """The client message whose answer is awaited."""

    QUERY = ord("Q")
    PARSE = ord("P")
    BIND = ord("B")
    DESCRIBE = ord("D")
    EXECUTE = ord("E")
    CLOSE = ord("C")
    SYNC = ord("S")
    CALL = ord("F")
    COPY_END = ord("c")  # CopyDone or CopyFail: has no answer of its own, marks where a COPY's input ended


@dataclass(slots=True)
class Verdict:
    """One statement, analysed and decided, under one meaning of its names and one policy."""

    command: CommandAnalysis
    decision: Decision
    fixed: bytes  # the finished part of its command record
    redacted: bool  # the text held secrets: its parameters are secrets too
    touches: bool  # reads a relation that has masked columns for this identity, or cannot be sure that it does not
    changes: bool  # changes what later statements mean: they wait for its answer
    renames: bool  # may change names in the catalog


class Prepared:
    """A prepared statement of the protocol: its text, and the verdict under the session's present meaning."""

    __slots__ = ("described", "epoch", "name", "oids", "rows", "syncs", "text", "verdict")

    def __init__(self, name: bytes, text: bytes, verdict: Verdict, epoch: object, oids: tuple[int, ...], syncs: int):
        self.name = name
        self.text = text
        self.verdict = verdict
        self.epoch = epoch
        self.oids = oids
        self.syncs = syncs  # Syncs sent before its Parse
        self.rows: RowDescription | None = None  # as Describe of the statement gave it, all formats 0
        self.described: dict[tuple[int, ...], bytes] = {}  # the same as its portals have it, by result formats

    def description(self, formats: tuple[int, ...]) -> bytes:
        """RowDescription of a portal with these result formats, for the record; empty while it is not known."""
        if self.rows is None:
            return b""
        known = self.described.get(formats)
        if known is None:
            fields = self.rows.fields
            per = formats if len(formats) == len(fields) else (formats[:1] or (0,)) * len(fields)
            known = RowDescription(tuple(replace(f, format=n) for f, n in zip(fields, per, strict=True))).encode()
            if len(self.described) < 4:
                self.described[formats] = known
        return known


class Portal:
    """A portal made by Bind: what it runs, and how its rows are masked."""

    __slots__ = (
        "columns",
        "described",
        "description",
        "formats",
        "name",
        "number",
        "policy",
        "prepared",
        "rewriter",
        "syncs",
        "verdict",
    )

    def __init__(self, name: bytes, verdict: Verdict, number: int, policy: object, syncs: int) -> None:
        self.name = name
        self.verdict = verdict
        self.number = number
        self.policy = policy  # the policy epoch under which it was let through
        self.described = False  # the server has said what its rows are
        self.rewriter: RowRewriter | None = None
        self.columns = b""  # of the response record
        self.description = b""  # RowDescription, for the record
        self.prepared: Prepared | None = None
        self.formats: tuple[int, ...] = ()
        self.syncs = syncs  # it dies with the first Sync after this many


class Pending:
    """One awaited answer, in the order in which the server will give them."""

    __slots__ = (
        "columns",
        "copy",
        "denial",
        "hidden",
        "index",
        "input",
        "kind",
        "maybe",
        "name",
        "number",
        "order",
        "parts",
        "portal",
        "prepared",
        "rewriter",
        "room",
        "rows",
        "size",
        "started",
        "tag",
        "verdict",
        "what",
    )

    def __init__(self, kind: int, number: int = 0, verdict: Verdict | None = None, name: bytes = b"") -> None:
        self.kind = kind
        self.number = number  # of its command record; 0: none
        self.verdict = verdict
        self.name = name
        self.what = b""
        self.prepared: Prepared | None = None
        self.portal: Portal | None = None
        self.denial: tuple[str, str, str] | None = None  # (SQLSTATE, message, hint): a stand-in was sent instead
        self.hidden = False  # sent by the gateway: its answer is not the client's
        self.maybe = False  # a Sync that a COPY may swallow
        self.order = 0  # which Sync (or what acts like one) this is
        self.index = 0  # statement of a simple query whose answer comes next
        self.rewriter: RowRewriter | None = None
        self.copy: Any = None  # CopyMasker of a running COPY OUT
        self.started = 0  # ns
        self.rows = 0
        self.size = 0
        self.parts: list[bytes] = []
        self.input: list[bytes] = []  # the capped beginning of COPY input
        self.room = 0
        self.columns = b""
        self.tag = b""

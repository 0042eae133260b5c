"""What a session remembers: answers that are still to come, prepared statements, portals, verdicts."""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from protocols.postgres.judging import Verdict
from protocols.postgres.messages import RowDescription
from protocols.postgres.results import RowRewriter
from protocols.records import Answered

if TYPE_CHECKING:
    from protocols.postgres.repeats import Repeat

__all__ = ["Kind", "Pending", "Portal", "Prepared", "Verdict"]


SHORT = 4096  # bytes of a statement, or of what is known of it; only the number of shorter ones is bounded
_DESCRIBED = 4  # descriptions of one statement's portals that are remembered


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
    TRIP = 0  # Bind to Sync as one, see `roundtrip`
    COPY_END = ord("c")  # CopyDone or CopyFail: has no answer of its own, marks where a COPY's input ended


class Prepared:
    """A prepared statement of the protocol: its text, and the verdict under the session's present meaning."""

    __slots__ = ("_sent", "described", "epoch", "name", "oids", "repeat", "rows", "syncs", "text", "verdict")

    def __init__(self, name: bytes, text: bytes, verdict: Verdict, epoch: object, oids: tuple[int, ...], syncs: int):
        self.name = name
        self.text = text
        self.verdict = verdict
        self.epoch = epoch
        self.oids = oids
        self.syncs = syncs  # Syncs sent before its Parse
        self.rows = b""  # RowDescription as Describe of the statement gave it, all formats 0; kept as bytes: many are
        self.described: dict[tuple[int, ...], bytes] = {}  # the same as its portals have it, by result formats
        self.repeat: Repeat | None = None
        self._sent: str | None = None

    @property
    def sent(self) -> str:
        """The text as people read it: one for the statement and all portals that are bound from it."""
        if self._sent is None:
            self._sent = self.text.decode("utf-8", "replace")
        return self._sent

    def description(self, formats: tuple[int, ...]) -> bytes:
        """RowDescription of a portal with these result formats, for the record; empty while it is not known."""
        if not any(formats):
            return self.rows
        known = self.described.get(formats)
        if known is None and self.rows:
            fields = RowDescription.decode(self.rows[5:]).fields
            per = formats if len(formats) == len(fields) else formats[:1] * len(fields)
            known = RowDescription(tuple(replace(f, format=n) for f, n in zip(fields, per, strict=True))).encode()
            if len(self.described) >= (_DESCRIBED if len(known) <= SHORT else 1):
                self.described.clear()
            self.described[formats] = known
        return known or b""


class Portal:
    """A portal made by Bind: what it runs, and how its rows are masked."""

    bound = False  # the server has made it
    described = False  # the server has said what its rows are
    rewriter: RowRewriter | None = None
    columns = b""  # of the response record
    description = b""  # RowDescription, for the record
    prepared: Prepared | None = None
    formats: tuple[int, ...] = ()
    judged = 0  # ns: when it was let through
    renames = -1  # how often names had come to mean something else when it was judged; -1: it rests on none

    def __init__(self, name: bytes, verdict: Verdict, number: int, policy: object, syncs: int) -> None:
        self.name = name
        self.verdict = verdict
        self.number = number
        self.policy = policy  # the policy epoch under which it was let through
        self.syncs = syncs  # it dies with the first Sync after this many


def judged_at(what: Pending | Portal) -> int:
    """When its verdict was made, as far as it matters: nanoseconds, before its bytes left."""
    if isinstance(what, Portal):
        return what.judged
    return what.judged or what.started if what.portal is None else what.portal.judged


class Pending(Answered):
    """One awaited answer, in the order in which the server will give them.

    Defaults stand on the class: most entries set few of these, and one is made for every message.
    """

    name = b""
    what = b""
    verdict: Verdict | None = None
    prepared: Prepared | None = None
    repeat: Repeat | None = None
    portal: Portal | None = None
    denial: tuple[str, str, str] | None = None  # (SQLSTATE, message, hint): a stand-in was sent instead
    hidden = False  # sent by the gateway: its answer is not the client's
    maybe = False  # a Sync that a COPY may swallow
    settled = False  # neither this nor an earlier one changes what later texts mean
    quiet = False  # none that is running does
    nameless = False  # none makes a name mean something else
    order = 0  # which Sync (or what acts like one) this is
    formats: tuple[int, ...] = ()  # result formats of a whole exchange
    index = 0  # statement of a simple query whose answer comes next
    rewriter: RowRewriter | None = None
    copy: Any = None  # CopyMasker of a running COPY OUT

    def __init__(self, kind: int, number: int = 0, verdict: Verdict | None = None, name: bytes = b"") -> None:
        self.kind = kind
        if number:
            self.number = number
        if verdict is not None:
            self.verdict = verdict
        if name:
            self.name = name

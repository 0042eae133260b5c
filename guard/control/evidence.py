"""Reading evidence for the control API: sessions, commands, replay, and one identity's whole story.

Everything comes from the index, which reads the journal first, so an answer holds what the journal holds now. Queries
run in threads, few at a time, because they share the interpreter with the traffic.

A damaged journal refuses to answer unless the caller says `damaged_ok`: an answer that silently ends where somebody cut
the record would look like a quiet night.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from guard.control.params import Params
from guard.control.wire import ControlError
from guard.record.errors import DamagedJournal, RecordError
from guard.record.index import EvidenceIndex
from guard.record.paging import TooMuch
from guard.record.queries import Search
from guard.record.replay import TimedEvent

MAX_ROWS = 5000
CONCURRENT = 2
PAGE_EVENTS = 5000
_LONG = 256 * 1024  # characters that are shown of what fits into no answer
_MOST_LINES = 10_000
_NEWEST = 2**63 - 1  # what the index can compare a number with
PAGE_BYTES = 8 * 1024 * 1024  # of rendered events: a page must fit well into one answer

Row = dict[str, Any]
Render = Callable[[str, bytes], Sequence[str]]

log = logging.getLogger("sluicegate.control")


class Evidence:
    """The index of one gateway. `render(protocol, wire)` turns recorded bytes into lines for a person; `flush` writes
    what the recorder still holds in memory."""

    def __init__(self, state_dir: Path, render: Render, flush: Callable[[], object]) -> None:
        self._state_dir = state_dir
        self._render = render
        self._flush = flush
        self._index: EvidenceIndex | None = None
        self._turn = asyncio.Semaphore(CONCURRENT)

    def close(self) -> None:
        """Let go of the index file."""
        if self._index is not None:
            self._index.close()
            self._index = None

    # -- the questions; each takes the call's parameters, and raises ControlError

    async def sessions(self, params: Params, live: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Sessions, newest first. `live` is what is connected now: after a crash the journal cannot know."""
        only_live = params.flag("live")
        filters: dict[str, Any] = {
            "subject": params.optional_text("subject"),
            "resource": params.optional_text("resource"),
            **_window(params),
        }
        limit, damaged_ok = _limit(params), _damaged_ok(params)
        params.done()
        connected = {str(entry["session"]): entry for entry in live}

        def ask(index: EvidenceIndex) -> list[Row]:
            # a session that is connected has no end in the journal; the reverse is not true
            open_only = True if only_live else None
            rows = index.sessions(
                **filters, live=open_only, limit=MAX_ROWS if only_live else limit, damaged_ok=damaged_ok
            )
            marked = [_marked(row, connected) for row in rows]
            return [row for row in marked if only_live is None or row["live"] is only_live][:limit]

        return await self._ask(ask)

    async def show(self, params: Params, live: Sequence[Mapping[str, Any]]) -> Row:
        """`session`, its `commands` in order, its other `events` of the same time; `next` is the `after` of the next
        page or None."""
        session = params.text("session")
        after, limit, damaged_ok = (
            int(params.number("after", default=0, most=2**62)),
            _limit(params),
            _damaged_ok(params),
        )
        params.done()
        connected = {str(entry["session"]): entry for entry in live}

        def ask(index: EvidenceIndex) -> Row:
            found = index.show(session, after=after, limit=limit, damaged_ok=damaged_ok)
            if found is None:
                raise _unknown(session, index)
            commands = [_with_outcome(row) for row in found["commands"]]
            marked = _marked(found["session"], connected)
            removed = index.removed(since=marked["started_at"], until=marked["ended_at"], damaged_ok=damaged_ok)
            return {
                "session": marked,
                "commands": commands,
                "events": found["events"],
                "next": found["next"],
                "removed": removed,
            }

        return await self._ask(ask)

    async def search(self, params: Params) -> list[Row]:
        """Commands that match every filter, newest first; `before` (a `seq`) asks for the next page."""
        names = ("subject", "resource", "relation", "access", "effect", "decision", "rule", "text", "session")
        texts: dict[str, Any] = {name: params.optional_text(name) for name in names}
        before = params.optional_number("before")
        limit, damaged_ok = _limit(params), _damaged_ok(params)
        wanted = Search(
            **texts, **_window(params), before=None if before is None else min(int(before), _NEWEST), limit=limit
        )
        params.done()

        def ask(index: EvidenceIndex) -> list[Row]:
            return [_with_outcome(row) for row in index.search(wanted, damaged_ok=damaged_ok)]

        return await self._ask(ask)

    async def refusals(self, params: Params) -> list[Row]:
        """Those who did not get a session, newest first; filters: subject (proven or claimed), resource, the window."""
        filters: dict[str, Any] = {
            "subject": params.optional_text("subject"),
            "resource": params.optional_text("resource"),
            **_window(params),
        }
        limit, damaged_ok = _limit(params), _damaged_ok(params)
        params.done()
        return await self._ask(lambda index: index.refusals(**filters, limit=limit, damaged_ok=damaged_ok))

    async def events(self, params: Params) -> list[Row]:
        """What is on record beside commands and answers, newest first: votes, containments, alerts, what administrators
        did and read, sessions; filters: kind (`approval.*`: a family), subject (of it, or by it), the window."""
        filters: dict[str, Any] = {
            "kind": params.optional_text("kind"),
            "subject": params.optional_text("subject"),
            **_window(params),
        }
        limit, damaged_ok = _limit(params), _damaged_ok(params)
        params.done()

        def ask(index: EvidenceIndex) -> list[Row]:
            rows = index.events(**filters, limit=limit, damaged_ok=damaged_ok)
            return [{**row, "text": _sentence(_told(row["facts"]))} for row in rows]

        return await self._ask(ask)

    async def incident(self, params: Params, live: Sequence[Mapping[str, Any]]) -> Row:
        """One identity: `summary` counts all of it; `sessions`, `not_allowed` and `refused` are the newest of each."""
        subject, window = params.text("subject"), _window(params)
        limit, damaged_ok = _limit(params), _damaged_ok(params)
        params.done()
        connected = {str(entry["session"]): entry for entry in live}

        def ask(index: EvidenceIndex) -> Row:
            summary = index.summary(subject, **window, damaged_ok=damaged_ok)
            sessions = index.sessions(subject=subject, **window, limit=limit, damaged_ok=damaged_ok)
            stopped: list[Row] = []
            for decision in ("deny", "hold", "terminate"):
                wanted = Search(subject=subject, decision=decision, **window, limit=limit, partly=True)
                stopped += index.search(wanted, damaged_ok=damaged_ok)
            stopped.sort(key=lambda row: int(row["seq"]), reverse=True)
            return {
                "subject": subject,
                "summary": summary,
                "sessions": [_marked(row, connected) for row in sessions],
                "not_allowed": [_with_outcome(row) for row in stopped[:limit]],
                "refused": index.refusals(subject=subject, **window, limit=limit, damaged_ok=damaged_ok),
                "removed": index.removed(**window, damaged_ok=damaged_ok),
            }

        return await self._ask(ask)

    async def replay(self, params: Params) -> Row:
        """A page of timed events: `{"session", "events": [{"seq", "at", "at_ms", "kind", ...}], "next"}`.

        A response has `lines`, rendered; what is neither command nor response has a `text`.
        """
        session = params.text("session")
        after, damaged_ok = int(params.number("after", default=0, most=2**62)), _damaged_ok(params)
        params.done()

        def ask(index: EvidenceIndex) -> Row:
            found = index.show(session, limit=0, damaged_ok=damaged_ok)
            if found is None:
                raise _unknown(session, index)
            protocol = str(found["session"].get("protocol") or "")
            unseen = (event for event in index.replay(session, damaged_ok=damaged_ok) if event.seq > after)
            return {"session": session, **self._page(protocol, unseen)}

        return await self._ask(ask)

    async def ask[T](self, question: Callable[[EvidenceIndex], T]) -> T:
        """A question of another module, asked like those above."""
        return await self._ask(question)

    # -- inside

    async def _ask[T](self, question: Callable[[EvidenceIndex], T]) -> T:
        try:
            self._flush()
        except RecordError as error:
            # while nothing can be recorded, what was recorded must still be readable
            log.warning("evidence is read without what is still in memory: %s", error)

        def work() -> T:
            if self._index is None:
                self._index = EvidenceIndex(self._state_dir, follow=False)
            return question(self._index)

        try:
            async with self._turn:
                return await asyncio.to_thread(work)
        except DamagedJournal as error:
            message = f"the journal is damaged: {error}; run `sluicegate verify`, or ask again with --damaged-ok"
            raise ControlError("unavailable", message) from error
        except TooMuch as error:
            raise ControlError("bad_request", str(error)) from error
        except RecordError as error:
            raise ControlError("unavailable", str(error)) from error

    def _page(self, protocol: str, events: Any) -> Row:
        shown: list[Row] = []
        size = 0
        for event in itertools.islice(events, PAGE_EVENTS):
            row = self._event(protocol, event)
            if (bytes_ := len(orjson.dumps(row, default=str))) > PAGE_BYTES:
                row = _shortened(row)
                bytes_ = len(orjson.dumps(row, default=str))
            shown.append(row)
            size += bytes_
            if size > PAGE_BYTES:
                break
        more = len(shown) == PAGE_EVENTS or size > PAGE_BYTES
        return {"events": shown, "next": shown[-1]["seq"] if more else None}

    def _event(self, protocol: str, event: TimedEvent) -> Row:
        facts = _told(event.facts)
        row: Row = {"seq": event.seq, "at": event.at, "at_ms": event.ms, "kind": event.kind}
        if event.removed is not None:
            act = event.removed
            row["removed"] = {"at": act.at / 1e9, "rule": act.rule, "reason": act.reason, "by": act.by}
        if event.kind == "command":
            return {**facts, "command": facts.get("kind"), **row}
        if event.kind == "response":
            return {**facts, "lines": self._lines(protocol, event.wire), "masked": _masked(facts), **row}
        if event.kind == "cast":
            # asciicast lines: a terminal's output and input with their own times
            return {**row, "n": facts.get("n"), "end": facts.get("end"), "cast": str(facts.get("lines") or "")}
        return {**row, "text": _sentence(facts), "facts": facts}

    def _lines(self, protocol: str, wire: bytes) -> list[str]:
        if not wire:
            return []
        try:
            return list(self._render(protocol, wire))
        except Exception as error:
            # recorded bytes came from a server: whatever a renderer makes of them, the rest of the replay goes on
            log.warning("a recorded response cannot be rendered: %s", type(error).__name__)
            return [f"({len(wire)} bytes that cannot be shown: {type(error).__name__})"]


def _shortened(row: Row) -> Row:
    """An event that would fit into no answer: the beginnings of what is long in it, and which those are (`cut`)."""
    cut: list[str] = []

    def short(name: str, value: Any) -> Any:
        if isinstance(value, str) and len(value) > _LONG:
            cut.append(name)
            return value[:_LONG]
        if isinstance(value, list) and len(orjson.dumps(value, default=str)) > _LONG:
            cut.append(name)
            texts = value[:_MOST_LINES]
            return [each if each is None else str(each)[: max(1, _LONG // len(texts))] for each in texts]
        return value

    made = {name: short(name, value) for name, value in row.items()}
    if isinstance(row.get("facts"), dict):
        made["facts"] = {name: short(name, value) for name, value in row["facts"].items()}
    return {**made, "cut": cut}


def _window(params: Params) -> dict[str, Any]:
    return {"since": params.optional_number("since"), "until": params.optional_number("until")}


def _limit(params: Params) -> int:
    return max(1, int(params.number("limit", default=100, most=MAX_ROWS)))


def _damaged_ok(params: Params) -> bool:
    return params.flag("damaged_ok") is True


def _unknown(session: str, index: EvidenceIndex) -> ControlError:
    why = f"there is no session `{session}`; see `sluicegate sessions`"
    if gone := [row for row in index.removed(damaged_ok=True) if row["level"] != "thin"]:
        oldest, newest = min(row["from_at"] for row in gone), max(row["to_at"] for row in gone)
        days = " to ".join(datetime.fromtimestamp(at, UTC).date().isoformat() for at in (oldest, newest))
        why += f". retention removed records of {days}: it may have been among them (`sluicegate retention show`)"
    return ControlError("not_found", why)


def _marked(row: Mapping[str, Any], connected: Mapping[str, Mapping[str, Any]]) -> Row:
    """A session with what the gateway knows about it now."""
    marked = dict(row)
    now = connected.get(str(row["session"]))
    marked["live"] = now is not None
    if now is not None:
        marked["waiting"] = now.get("waiting")
    elif row.get("ended_at") is None:
        marked["end_reason"] = "its end is not on record: the gateway was killed"
    return marked


def _with_outcome(row: Mapping[str, Any]) -> Row:
    """A command with the sum of its responses: a portal that is executed in steps has several."""
    responses = row.get("responses") or []
    last = responses[-1] if responses else {}
    return {
        **row,
        "status": last.get("status"),
        "tag": last.get("tag"),
        "sqlstate": next((each["sqlstate"] for each in responses if each.get("sqlstate")), None),
        "rows": sum(int(each.get("rows") or 0) for each in responses) if responses else None,
        "us": sum(int(each.get("us") or 0) for each in responses) if responses else None,
        "masked": sorted({str(name) for each in responses for name in each.get("masked") or ()}),
    }


def _masked(facts: Mapping[str, Any]) -> list[str]:
    columns = facts.get("columns")
    if not isinstance(columns, list):
        return []
    return sorted({str(each.get("name")) for each in columns if isinstance(each, dict) and each.get("masked")})


def _told(facts: Mapping[str, Any]) -> Row:
    """A record without what stands beside it."""
    return {name: value for name, value in facts.items() if name not in ("t", "s", "at")}


def _sentence(facts: Mapping[str, Any]) -> str:
    """The facts of an event on one line."""
    parts = []
    for name, value in facts.items():
        if value not in (None, "", [], {}):
            plain = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            parts.append(f"{name} {plain[:200]}")
    return "; ".join(parts)

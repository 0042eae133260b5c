"""An exchange's record, its refusals and its end: what every request has, whatever it asks for."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import orjson
from mitmproxy import http

from addons.web.content import opened_prefix
from addons.web.inspect import Looked, Passing
from addons.web.live import HttpSession, NotAdmitted
from addons.web.port import Ended, Refuse, Verdict
from guard.mask.noting import MaskedNames
from protocols.contract import Action, Analysis, Decision, Effect, RecordFailed
from protocols.http import evidence
from protocols.http.headers import WITHHELD, Header, is_secret
from protocols.http.targets import BadTarget, Target

if TYPE_CHECKING:
    from addons.web.gate import HttpGate

log = logging.getLogger("sluicegate.http")

_SLACK = 8192  # bytes kept beyond what is recorded: a secret that the cut would halve is found whole
# what a record needs to make sense, and what cannot hold a value that was masked
_ENCODED = 3  # times that a path is decoded to look for what must not be on record
_PLAIN = frozenset({"host", "content-type", "content-length", "content-encoding", "user-agent", "accept"})


def pairs(headers: http.Headers) -> list[Header]:
    """Headers in order, each with its name as it was written."""
    return [(name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in headers.fields]


class ExchangeBase:
    """State that the parts of an exchange share."""

    def __init__(self, gate: HttpGate, request: http.Request, stream: Any, tunnelled: tuple[str, int] | None) -> None:
        self.gate = gate
        self.request = request
        self.id = secrets.token_hex(8)
        self.session: HttpSession | None = None
        self.analysis: Analysis | None = None
        self.decision: Decision | None = None
        self.target: Target | None = None
        self.scheme = ""
        self.upgrade = ""
        self.token = ""
        self._stream = stream
        self._tunnelled = tunnelled
        self._closes = False  # the client wants its connection closed after this
        self._wrong = ""  # what is wrong with the request itself
        self._credential: list[Header] = []
        self._withheld: list[Header] = []  # of the request, for the upstream only
        self._answer_withheld: list[Header] = []
        self._spool: Any = None
        self._size = 0
        self._sent = 0  # bytes of a body that passed in pieces
        self._streaming = False
        self._passing: Passing | None = None
        self._body: bytes | None = b""  # as rules see it, once it is complete
        self._looked: Looked | None = None
        self._found: frozenset[Effect] = frozenset()  # what is about to leave
        self._kept = bytearray()  # the beginning of the body, for the record
        self._number = 0
        self._started = time.monotonic()
        self._response: http.Response | None = None  # as it was judged
        self._answer = bytearray()
        self._answer_size = 0
        self._answer_length = -1  # what the answer's head tells the client; -1: nothing
        self._answer_head = b""
        self._answer_tag = ""
        self._answer_status = 0
        self._mask: Any = None
        self.noted = MaskedNames()
        self._done = False
        self._counted = False
        self._granted: tuple[object, float] | None = None  # under which policy, and until when that need not be asked

    # ------------------------------------------------------------ at work

    def _begin_work(self) -> None:
        assert self.session is not None
        assert self.decision is not None
        self._granted = self.session.policy, self.decision.valid_until
        if not self._counted:
            self._counted = True
            self.session.under_way += 1

    def _close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        if self._counted:
            self._counted = False
            assert self.session is not None
            self.session.under_way -= 1

    def finished(self) -> None:
        if self.session is not None and self._number and not self._done:
            self._respond_to_record(self._answer_status, "ok" if self._answer_status < 400 else "error")
        self._close()

    def failed(self, why: str) -> None:
        if 0 < self._answer_length == self._answer_size:
            self.finished()  # every byte that was announced went out: who leaves then has had the answer
            return
        if self.session is not None and self._number and not self._done:
            self._answer_tag = self._answer_tag or why
            self._respond_to_record(0, "lost")
        self._close()

    # ------------------------------------------------------------ record

    @property
    def _personal(self) -> bool:
        return Effect.EXFIL_PERSONAL in self._found

    @property
    def _secretive(self) -> bool:
        """Values that are masked elsewhere are in it: of what was sent, nothing is on record but its size."""
        return Effect.EXFIL_MASKED in self._found

    def _text(self) -> str:
        target = self.target
        if target is None:
            return self.request.method
        port = "" if target.port == (443 if self.scheme == "https" else 80) else f":{target.port}"
        where = f"{self.request.method} {self.scheme}://{target.host}{port}"
        return where + self._shown_path()

    def _shown_path(self) -> str:
        if self._secretive:
            return f"/{WITHHELD}"
        clear = path = self.request.path
        for _ in range(_ENCODED):
            shown = self.gate.outbound.redacted_text(clear, personal=self._personal)
            if shown is not clear:
                return shown  # as it is read: a `%3D` before a credential would hide it
            opened = unquote_plus(clear, errors="replace")
            if opened == clear:
                break
            clear = opened
        return path

    def _shown_headers(self) -> list[Header]:
        headers = [*pairs(self.request.headers), *self._withheld]
        if self._secretive:
            return [(name, value if name.lower() in _PLAIN else WITHHELD) for name, value in headers]
        return self.gate.outbound.shown(headers, personal=self._personal)

    def _shown_body(self) -> bytes:
        if self._secretive or not self._kept:
            return b""
        limit = self.gate.runtime.config.record.max_response_bytes
        raw = opened_prefix(bytes(self._kept), self.request.headers.get("content-encoding", ""), limit + _SLACK)
        return self.gate.outbound.redacted(raw, personal=self._personal)[:limit]

    def _keep_request(self, data: bytes) -> None:
        left = self.gate.runtime.config.record.max_response_bytes + _SLACK - len(self._kept)
        if left > 0:
            self._kept += data[:left]

    def _keep(self, data: bytes) -> None:
        self._answer_size += len(data)
        left = self.gate.runtime.config.record.max_response_bytes + _SLACK - len(self._answer)
        if left > 0:
            self._answer += data[:left]

    def _record(self, analysis: Analysis, decision: Decision, text: str) -> None:
        """The command is in the journal when this returns. Raises RecordFailed."""
        session = self.session
        assert session is not None
        session.number += 1
        self._number = session.number
        if self._found:
            analysis = replace(analysis, shape=text)
        body = evidence.command(
            session.id,
            self._number,
            session.now_ns(),
            analysis,
            [effect.value for effect in analysis.effects],
            decision,
            text,
            self._shown_headers(),
            self._shown_body(),
            self._size,
            {"request": self.id, **({"unopened": True} if self._looked and not self._looked.complete else {})},
        )
        session.record("command", body)
        session.runtime.recorder.flush()

    async def _recorded(self) -> None:
        await self.gate.runtime.recorder.sync_barrier()

    def _shown_answer(self, limit: int) -> bytes:
        coding = "" if self._response is None else self._response.headers.get("content-encoding", "")
        raw = opened_prefix(bytes(self._answer), coding, limit + _SLACK)
        return self.gate.outbound.redacted(raw)[:limit]

    def _respond_to_record(self, status: int, word: str) -> None:
        session = self.session
        if session is None or self._done or not self._number:
            return
        self._done = True
        limit = self.gate.runtime.config.record.max_response_bytes
        masked = self.noted.columns()
        body = evidence.response(
            session.id,
            self._number,
            session.now_ns(),
            word,
            self._answer_size,
            int((time.monotonic() - self._started) * 1e6),
            self._answer_tag or str(status),
            self._answer_head + self._shown_answer(limit),
            self._answer_size > limit,
            ({"sent": self._sent} if self._streaming else {}) | ({"columns": masked} if masked else {}),
        )
        try:
            session.record("response", body)
        except RecordFailed as e:
            log.error("an answer is not recorded: %s", e)

    def message(self, from_client: bool, payload: bytes, found: list[Effect], *, stopped: bool) -> None:
        """One WebSocket message is on record before it goes on. Raises `RecordFailed`."""
        session = self.session
        assert session is not None
        limit = self.gate.runtime.config.record.max_response_bytes
        raw = payload[: limit + _SLACK]
        personal = Effect.EXFIL_PERSONAL in found
        text = self.gate.outbound.redacted(raw, personal=personal)[:limit].decode("utf-8", "replace")
        body = {
            "t": "message",
            "at": session.now_ns(),
            "s": session.id,
            "n": self._number,
            "from_client": from_client,
            "bytes": len(payload),
            "text": WITHHELD if Effect.EXFIL_MASKED in found else text,
            "effects": [effect.value for effect in found],
            "stopped": stopped,
        }
        session.record("message", orjson.dumps(body))
        if from_client:
            session.runtime.recorder.flush()

    def cut(self, why: str) -> None:
        """The gateway ends what is under way: its record says so."""
        self._answer_tag = f"{self._answer_tag}; {why}" if self._answer_tag else why

    def tunnelled(self, sent: int, received: int) -> None:
        """A tunnel or upgraded connection has ended: bytes in each direction."""
        self._answer_size, self._sent, self._streaming = received, sent, True
        self._answer_tag = self._answer_tag or "tunnel"
        self._done = False
        self._respond_to_record(self._answer_status, "ok")
        self._close()

    # ------------------------------------------------------------ what must not leave

    def may_pass(self, found: frozenset[Effect]) -> str:
        """Why what was found in the middle of something must not leave; empty: the rules let it pass."""
        session, analysis = self.session, self.analysis
        assert session is not None
        assert analysis is not None
        if found <= self._found:
            return ""
        self._found |= found
        decision = session.decide(replace(analysis, effects=analysis.effects | self._found))
        if decision.alerts:
            session.alert(decision.alerts, self._number)
        if decision.action is Action.ALLOW:
            return ""
        session.denied += 1
        if decision.action is Action.TERMINATE:
            session.terminate(f"rule `{decision.rule}`: {decision.why}")
        return decision.why

    # ------------------------------------------------------------ refusals

    def _refuse(self, status: int, text: str, **more: str) -> Refuse:
        return Refuse(self.gate.refusal(status, text, request_id=self.id, **more))

    async def _guarded(self, work: Awaitable[Verdict]) -> Verdict:
        try:
            return await work
        except Exception as e:
            return self._failed(e)

    def _failed(self, error: Exception) -> Verdict:
        """Whatever went wrong: refused."""
        if isinstance(error, NotAdmitted):
            verdict = self._refuse(error.status, str(error))
        elif isinstance(error, BadTarget):
            verdict = self._refuse(400, str(error))
        elif isinstance(error, Ended):
            verdict = self._refuse(403, str(error))
        elif isinstance(error, RecordFailed):
            log.error("not forwarded: %s", error)
            verdict = self._refuse(503, "the gateway cannot record; nothing passes until it can")
        else:
            log.error("a request was refused by an internal error", exc_info=error)
            verdict = self._refuse(503, "internal error in the gateway")
        self._respond_to_record(verdict.response.status_code, "error")
        return verdict

    # ------------------------------------------------------------ for people who look

    def _projection(self) -> http.Request:
        """The request as people may see it: without secrets, its body as it is on record."""
        shown = self.request.copy()
        shown.headers = http.Headers(
            [(k.encode("latin-1", "replace"), v.encode("utf-8", "surrogateescape")) for k, v in self._shown_headers()]
        )
        if self.target is not None:
            shown.path = self._shown_path()
            shown.host, shown.port, shown.scheme = self.target.host, self.target.port, self.scheme or "https"
        shown.headers.pop("content-encoding", None)
        body = self._shown_body()
        shown.data.content = body or (b"" if not self._size else None)
        return shown

    def _answer_projection(self, response: http.Response) -> http.Response:
        shown = response.copy()
        for name in {name for name, _ in pairs(shown.headers) if is_secret(name)} | {"content-encoding"}:
            shown.headers.pop(name, None)
        for name, _ in self._answer_withheld:
            shown.headers[name] = WITHHELD
        limit = self.gate.runtime.config.record.max_response_bytes
        shown.data.content = self._shown_answer(limit) if self._answer else shown.data.content
        return shown

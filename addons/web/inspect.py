"""What must not leave, and what must not be recorded: detectors, the gateway's own secrets, values masked elsewhere.

Large bodies are looked at in a thread, where the event loop only waits; fingerprints are looked up on the loop, in
slices, since they change there.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from addons.content_threads import in_content_thread
from guard.detect import Finding, Kind, Known, Scanner, Stream
from guard.detect.expose import Effort, exposed
from protocols.contract import Effect
from protocols.http.analysis import Request
from protocols.http.headers import is_secret, shown

if TYPE_CHECKING:
    from addons.web.live import HttpSession
    from guard.leak import Fingerprints

REDACTED = "[redacted]"
AT_ONCE = 1 << 15  # bytes of a body that are looked at on the event loop
_AMONG_MANY = 1 << 12  # ... for somebody whose masked values are looked for in it
_SLICE = 1 << 14  # bytes that are looked up among the fingerprints at a time
_HEAD = Effort(budget=1 << 17)  # what may be packed in a request's head
_COMMON = 4096  # characters of header fields whose forms are kept for the next request that says the same
_OVERLAP = 2048  # ... and bytes of the slice before: a value could lie across
_EFFECTS = {Kind.CREDENTIAL: Effect.EXFIL_CREDENTIAL, Kind.PERSONAL: Effect.EXFIL_PERSONAL}


class _Scanners(threading.local):
    """A scanner for each thread: hyperscan's scratch space is not shared."""

    version = -1
    scanner: Scanner


@dataclass(frozen=True, slots=True)
class Looked:
    """What is in a body. `forms`: the body and what it holds in other forms, for the fingerprints."""

    effects: frozenset[Effect] = frozenset()
    forms: tuple[bytes, ...] = ()
    complete: bool = True  # False: something packed in it could not be opened
    exhausted: bool = False  # ... because there was more of it than was to be opened


class Outbound:
    """One for a process. `fingerprints`: of values that identities got masked; None where no rule asks for them."""

    def __init__(self, fingerprints: Fingerprints | None = None) -> None:
        self.fingerprints = fingerprints
        self._secrets: dict[str, dict[bytes, bytes]] = {}
        self._known: Known | None = None
        self._version = 0
        self._local = _Scanners()

    def learn(self, name: str, secret: str) -> None:
        """A secret of the gateway's own: from now on it is found wherever it goes out. An older one is kept, too."""
        value = secret.encode("utf-8", "surrogateescape")
        values = self._secrets.setdefault(name, {})
        mark = hashlib.sha256(value).digest()
        if not value or mark in values:
            return
        values[mark] = value
        while len(values) > 4:
            values.pop(next(iter(values)))
        self._known = Known({key: tuple(found.values()) for key, found in self._secrets.items()})
        self._version += 1

    def _scanner(self) -> Scanner:
        local = self._local
        if local.version != self._version:
            version = self._version
            local.scanner = Scanner(known=self._known)
            local.version = version
        return local.scanner

    def ready(self) -> None:
        """Compiles the detectors: the first request should not wait for it. Raises DetectError: they do not work."""
        self.look(b"a text")

    # ------------------------------------------------------------ what goes out

    def head(
        self, session: HttpSession, request: Request, withheld: Iterable[tuple[str, str]] = ()
    ) -> frozenset[Effect]:
        """What a request's target and headers hold, names and values, as they are and in other forms.

        `withheld`: headers that carry credentials by their name. They may, but not values that were masked elsewhere,
        and none of the gateway's own secrets.
        """
        said = [*request.target.paths, *(text for pair in request.target.query for text in pair)]
        exposure = exposed("\n".join(said).encode("utf-8", "surrogateescape"), _HEAD)
        forms = [*exposure]
        plain = "\n".join(text for pair in request.headers if not is_secret(pair[0]) for text in pair)
        fields, too_much = (_usual_header_forms if len(plain) <= _COMMON else _header_forms)(plain)
        forms += fields
        scanner = self._scanner()
        found = {_EFFECTS[finding.kind] for form in forms for finding in scanner.find(form)}
        if exposure.exhausted or too_much:
            found.add(Effect.UNKNOWN)  # more is packed in it than anybody looks at while others wait
        if hidden := "\n".join(text for pair in withheld for text in pair):
            for form in exposed(hidden.encode("utf-8", "surrogateescape"), _HEAD):
                forms.append(form)
                if self._known is not None and any(secret in form for _, secret in self._known.forms):
                    found.add(Effect.EXFIL_CREDENTIAL)
        return frozenset(found | self._masked(session, forms))

    def look_at_once(self, session: HttpSession, data: bytes) -> Looked | None:
        """A whole body on the event loop; None: it is too large, or holds too much, and others would wait.

        Raises DetectError.
        """
        many = self.fingerprints is not None and self.fingerprints.knows(session.identity)
        if len(data) > (_AMONG_MANY if many else AT_ONCE):
            return None
        looked = self.look(data, Effort(budget=4 * len(data) + 1024))
        return None if looked.exhausted else looked

    def look(self, data: bytes, effort: Effort | None = None) -> Looked:
        """A whole body, in any thread. Raises DetectError."""
        scanner = self._scanner()
        kinds: set[Kind] = set()
        forms: list[bytes] = []
        exposure = exposed(data, effort)
        keep = self.fingerprints is not None
        for form in exposure:
            kinds.update(finding.kind for finding in scanner.find(form))
            if keep:
                forms.append(form)
        return Looked(frozenset(_EFFECTS[kind] for kind in kinds), tuple(forms), exposure.complete, exposure.exhausted)

    def body(self, session: HttpSession, looked: Looked) -> frozenset[Effect]:
        """Effects of a body that is small enough for the event loop."""
        return looked.effects | self._masked(session, looked.forms)

    async def large_body(self, session: HttpSession, data: bytes) -> tuple[frozenset[Effect], bool]:
        """Effects of a body of any size, and whether all of it could be opened."""
        looked = await in_content_thread(self.look, data)
        effects, fingerprints = looked.effects, self.fingerprints
        if fingerprints is not None and fingerprints.knows(session.identity):
            found: set[bytes] = set()
            for form in looked.forms:
                for at in range(0, len(form), _SLICE):
                    piece = form[max(0, at - _OVERLAP) : at + _SLICE]
                    fingerprints.search(session.identity, piece, time.time(), found)
                    await asyncio.sleep(0)
            if fingerprints.leak(session.identity, found):
                effects |= {Effect.EXFIL_MASKED}
        return effects, looked.complete

    def _masked(self, session: HttpSession, forms: Iterable[bytes]) -> frozenset[Effect]:
        fingerprints = self.fingerprints
        if fingerprints is None or not fingerprints.knows(session.identity):
            return frozenset()
        found: set[bytes] = set()
        for form in forms:
            fingerprints.search(session.identity, form, time.time(), found)
        return frozenset({Effect.EXFIL_MASKED}) if fingerprints.leak(session.identity, found) else frozenset()

    def stream(self, session: HttpSession) -> Passing:
        return Passing(self, session, Stream(self._scanner()))

    # ------------------------------------------------------------ what is recorded

    def redacted(self, raw: bytes, *, personal: bool = False) -> bytes:
        """Without the credentials in it, and the personal data."""
        return _cut_out(raw, (f for f in self._scanner().find(raw) if personal or f.kind is Kind.CREDENTIAL))

    def redacted_text(self, text: str, *, personal: bool = False) -> str:
        raw = text.encode("utf-8", "surrogateescape")
        clean = self.redacted(raw, personal=personal)
        return text if clean is raw else clean.decode("utf-8", "replace")

    def shown(self, headers: Iterable[tuple[str, str]], *, personal: bool = False) -> list[tuple[str, str]]:
        """Headers as they go on record."""
        listed = shown(headers)
        text = "\n".join(value for _, value in listed)
        if self.redacted_text(text, personal=personal) is text:
            return listed
        return [(name, self.redacted_text(value, personal=personal)) for name, value in listed]


class Passing:
    """A body that is looked at as it passes: what could still become a finding is held back."""

    def __init__(self, outbound: Outbound, session: HttpSession, stream: Stream) -> None:
        self._outbound = outbound
        self._session = session
        self._stream = stream
        self._tail = b""
        self._found: set[bytes] = set()

    def feed(self, data: bytes) -> tuple[bytes, frozenset[Effect]]:
        """What may go on, and what is in it that must not."""
        piece = self._stream.feed(data)
        return piece.data, self._effects(piece.findings, piece.data)

    def end(self) -> tuple[bytes, frozenset[Effect]]:
        piece = self._stream.end()
        return piece.data, self._effects(piece.findings, piece.data)

    def _effects(self, findings: Iterable[Finding], data: bytes) -> frozenset[Effect]:
        effects = frozenset(_EFFECTS[finding.kind] for finding in findings)
        fingerprints, identity = self._outbound.fingerprints, self._session.identity
        if fingerprints is not None and data and fingerprints.knows(identity):
            fingerprints.search(identity, self._tail + data, time.time(), self._found)
            self._tail = (self._tail + data)[-_OVERLAP:]
            if fingerprints.leak(identity, self._found):
                effects |= {Effect.EXFIL_MASKED}
        return effects


def _header_forms(text: str) -> tuple[tuple[bytes, ...], bool]:
    """Header fields that are no secrets, in every form; whether there was more to open than is opened."""
    exposure = exposed(text.encode("utf-8", "surrogateescape"), _HEAD)
    return tuple(exposure), exposure.exhausted


_usual_header_forms = lru_cache(maxsize=256)(_header_forms)  # a client says the same ones with each request


def _cut_out(raw: bytes, findings: Iterable[Finding]) -> bytes:
    pieces: list[bytes] = []
    at = 0
    for finding in findings:
        if finding.start >= at:
            pieces += (raw[at : finding.start], REDACTED.encode())
        at = max(at, finding.end)
    if not pieces:
        return raw
    pieces.append(raw[at:])
    return b"".join(pieces)

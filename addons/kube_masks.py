"""Values of Secrets masked in what an API server answers, and in what of a request goes on record."""

from __future__ import annotations

from addons.http_content import Unreadable
from protocols.kubernetes.errors import Withheld
from protocols.kubernetes.requests import RequestInfo
from protocols.kubernetes.secrets import MAX_ANSWER, MaskedObjects, mask_answer
from protocols.kubernetes.watching import WatchMasker

SECRETS = MaskedObjects()
_TOO_LARGE = "the answer is too large to be masked: ask for it in pages (`--chunk-size`)"


class SecretMask:
    """Secrets in one answer: a watch as it passes, anything else once it is whole."""

    def __init__(self, content_type: str, request: RequestInfo) -> None:
        """Raises Withheld."""
        self._type, self._request = content_type, request
        self._watch = WatchMasker(content_type, request, SECRETS) if request.watches else None
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        try:
            if self._watch is not None:
                return self._watch.feed(data)
        except Withheld as e:
            raise Unreadable(str(e)) from None
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_ANSWER:
            raise Unreadable(_TOO_LARGE)
        return b""

    def end(self) -> bytes:
        try:
            if self._watch is not None:
                return self._watch.flush()
            return mask_answer(b"".join(self._parts), self._type, self._request, SECRETS).body
        except Withheld as e:
            raise Unreadable(str(e)) from None


def for_record(body: bytes, content_type: str, request: RequestInfo) -> bytes | None:
    """What of a body may be on record; None: nothing, since its Secrets cannot be told apart."""
    if not SECRETS.applies(request) or not body:
        return body
    try:
        return mask_answer(body, content_type or "application/json", request, SECRETS).body
    except Withheld:
        return None

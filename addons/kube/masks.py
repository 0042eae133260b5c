"""Values of Secrets masked in what an API server answers, and in what of a request goes on record."""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable

from addons.web.content import Unreadable
from protocols.kubernetes.errors import Withheld
from protocols.kubernetes.lists import AnswerMasker
from protocols.kubernetes.objects import media_type
from protocols.kubernetes.requests import RequestInfo
from protocols.kubernetes.secrets import PLACEHOLDER, MaskedObjects, mask_answer
from protocols.kubernetes.watching import WatchMasker

SECRETS = MaskedObjects()
HELM = "sh.helm.release.v1."  # how the Secrets are called in which helm keeps its releases
_MAX_YAML = 64 * 1024  # bytes: reading it takes the event loop about a second for each 256 KiB
_MAX_RECORDED = 256 * 1024  # bytes of a request that are read once more for the record
_TOO_LARGE = "the answer is more yaml than is masked: ask for json"


class Own:
    """Which values an identity got masked in which Secret: to write them there again is no leak.

    `kubectl apply` reads a Secret, sees a mask, and sends the value that it has in a file. Only keyed digests are kept,
    `most` of them, the oldest go first.
    """

    def __init__(self, most: int = 50_000) -> None:
        self._key = secrets.token_bytes(32)
        self._most = most
        self._kept: OrderedDict[bytes, None] = OrderedDict()

    def add(self, place: str, value: bytes) -> None:
        self._kept[self._digest(place, value)] = None
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def holds(self, place: str, value: bytes) -> bool:
        return self._digest(place, value) in self._kept

    def _digest(self, place: str, value: bytes) -> bytes:
        return hmac.digest(self._key, place.encode("utf-8", "surrogatepass") + b"\0" + value, "sha256")[:16]


OWN = Own()


def masked_objects(
    saw: Callable[[str], object] | None, shows: Callable[[str, str], bool], place: str = ""
) -> MaskedObjects:
    """What is masked for an identity: `saw` is told each value, `shows` says which objects it may see all the same.

    `place`: identity and Secret, where the answer is one of a single Secret.
    """

    def replace(value: bytes) -> bytes:
        if saw is not None:
            saw(value.decode("utf-8", "replace"))
            if place:
                OWN.add(place, value)
        return PLACEHOLDER.encode()

    return MaskedObjects(replace=replace, shows=shows)


class SecretMask:
    """Secrets in one answer, masked as it passes; YAML, which is rare, once it is whole.

    `masked` is told where each value stood: `NAMESPACE/NAME data.KEY`.
    """

    def __init__(
        self, content_type: str, request: RequestInfo, what: MaskedObjects, masked: Callable[[str], object]
    ) -> None:
        """Raises Withheld."""
        self._masked = masked
        self._type, self._request, self._what = content_type, request, what
        self._passing: WatchMasker | AnswerMasker | None = None
        self._parts: list[bytes] = []
        self._size = 0
        kind = media_type(content_type)
        if request.watches:
            self._passing = WatchMasker(content_type, request, what, masked=masked)
        elif kind == "application/json":
            self._passing = AnswerMasker(request, what, masked=masked)
        elif kind != "application/yaml":
            raise Withheld(f"an answer of type `{kind[:80]}` cannot be masked")

    def feed(self, data: bytes) -> bytes:
        if self._passing is not None:
            try:
                return self._passing.feed(data)
            except Withheld as e:
                raise Unreadable(str(e)) from None
        self._parts.append(data)
        self._size += len(data)
        if self._size > _MAX_YAML:
            raise Unreadable(_TOO_LARGE)
        return b""

    def end(self) -> bytes:
        try:
            if self._passing is not None:
                return self._passing.flush()
            answer = mask_answer(b"".join(self._parts), self._type, self._request, self._what)
            for field in answer.fields:
                self._masked(field)
            return answer.body
        except Withheld as e:
            raise Unreadable(str(e)) from None


def for_record(body: bytes, content_type: str, request: RequestInfo) -> bytes | None:
    """What of a body may be on record; None: nothing, since its Secrets cannot be told apart."""
    if not SECRETS.applies(request) or not body:
        return body
    if len(body) > _MAX_RECORDED:
        return None
    try:
        return mask_answer(body, content_type or "application/json", request, SECRETS).body
    except Withheld:
        return None


def is_helms(request: RequestInfo) -> bool:
    """Whether somebody looks for helm's releases."""
    terms = request.label_selector.replace(" ", "").replace("==", "=").split(",")
    return request.name.startswith(HELM) or "owner=helm" in terms

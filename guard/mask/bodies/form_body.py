"""Forms (`application/x-www-form-urlencoded`) as they pass: fields masked by name, contents by detector.

`;` separates fields for some readers and not for others. A name is looked for behind both; a masked value reaches to
the next `&`.
"""

from __future__ import annotations

import re
import urllib.parse

from guard.mask.bodies.paths import Paths
from guard.mask.bodies.rules import DEFAULT, BodyError, Contents, Limits, masked_spans, masked_text
from guard.mask.bodies.values import spans_in

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def _decoded(raw: bytes) -> bytes:
    return urllib.parse.unquote_to_bytes(raw.replace(b"+", b" "))


def _encoded(text: bytes) -> bytes:
    return urllib.parse.quote_plus(text, safe="*-._@[]").encode()


class FormMasker:
    """One form."""

    def __init__(self, paths: Paths, contents: Contents | None = None, limits: Limits = DEFAULT) -> None:
        self._paths = paths
        self._contents = contents
        self._limits = limits
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        whole, separator, self._rest = (self._rest + data).rpartition(b"&")
        if len(self._rest) > self._limits.value:
            raise BodyError(f"a field of the form has more than {self._limits.value} bytes")
        return b"&".join(map(self._pair, whole.split(b"&"))) + separator if separator else b""

    def end(self) -> bytes:
        rest, self._rest = self._rest, b""
        return self._pair(rest)

    def _pair(self, raw: bytes) -> bytes:
        if _BAD_ESCAPE.search(raw):
            raise BodyError("the form has a percent sign that begins no escape")
        at = 0
        while at >= 0:
            stop = raw.find(b";", at)
            name, separator, _ = raw[at : stop if stop >= 0 else len(raw)].partition(b"=")
            mask = self._paths.named(_decoded(name).decode("utf-8", "replace"))
            if mask is not None and separator:
                begin = at + len(name) + 1
                return raw[:begin] + _encoded(masked_text(mask, _decoded(raw[begin:])))
            at = stop + 1 if stop >= 0 else -1
        return self._searched(raw)

    def _searched(self, raw: bytes) -> bytes:
        if self._contents is None:
            return raw
        name, separator, value = raw.partition(b"=")
        if not separator:
            name, value = b"", raw
        text = _decoded(value)
        spans = spans_in(self._contents, _decoded(name), text)
        said = _decoded(name)
        of_name = spans_in(self._contents, b"", said) if separator else []
        if not spans and not of_name:
            return raw
        left = (_encoded(masked_spans(said, of_name)) if of_name else name) + separator
        return left + (_encoded(masked_spans(text, spans)) if spans else value)

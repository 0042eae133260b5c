"""Whether a body's letters are what they seem: some servers read JSON and forms in whatever charset the client names.

In UTF-7 or EBCDIC other bytes stand for `role=admin` than here, and what stands here may be something else there.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import json
import re

from protocols.http.headers import media_type

_CHARSET = re.compile(r";\s*charset\s*=\s*(?:\"([a-z0-9_.:+-]+)\"|([a-z0-9_.:+-]+))\s*(?=;|\Z)")
# in these each byte below 128 is the ASCII character, whatever stands before it ...
_PLAIN = re.compile(r"(?:utf-?8|us-ascii|ascii|iso-?8859-[0-9]+|latin-?[0-9]+|(?:windows|cp)-?125[0-8]|koi8-[ru])\Z")
# ... and in these it is one unless a byte above 127 stands before it
_PAIRS = re.compile(r"(?:gb2312|gbk|gb18030|big5|shift[_-]jis|sjis|windows-31j|euc-(?:jp|kr|cn|tw))\Z")
_WIDE = re.compile(r"utf-?(16|32)(?:le|be)?\Z")
_FORM = "application/x-www-form-urlencoded"
_GRAPHQL = "application/graphql"


def legible(content_type: str, body: bytes) -> bool:
    """Whether a body that rules read (JSON, a form, GraphQL) reads alike here and at a server that goes by the charset
    of its Content-Type. Others are data, and legible."""
    kind = media_type(content_type)
    if "charset" not in content_type.lower() or not (
        kind.endswith("json") or kind in (_FORM, _GRAPHQL, "multipart/form-data")
    ):
        return True
    lower = content_type.lower()
    named = [quoted or plain for quoted, plain in _CHARSET.findall(lower)]
    if lower.count("charset") != len(named):
        return False  # said in a way that readers could take differently
    return all(_legible(name, kind, body) for name in named)


def _legible(charset: str, kind: str, body: bytes) -> bool:
    if _PLAIN.match(charset):
        return True
    if _PAIRS.match(charset):
        return body.isascii() or kind == _FORM  # of a form each name and value is cut out before it is decoded
    wide = _WIDE.match(charset)
    return wide is not None and kind.endswith("json") and json.detect_encoding(body).startswith(f"utf-{wide[1]}")

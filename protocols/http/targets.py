"""Where a request goes and what it asks for there: host, port, and every reading of its path.

Servers disagree on `//`, `..`, `%2e`, `%2f`, `\\`, `;x` and double encoding. Instead of guessing, a path that can be
read in several ways has all of its readings: an allow must fit each of them, a denial any. What goes upstream is what
the client wrote.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

MAX_TARGET = 16384  # characters of path and query
MAX_PARAMETERS = 1000
_DECODED_AGAIN = 3
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class BadTarget(ValueError):
    """A target that no request should have; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Target:
    """`paths`: every reading of the path, percent-decoded, the plainest first. `query`: (name, value) decoded."""

    host: str
    port: int
    paths: tuple[str, ...]
    query: tuple[tuple[str, str], ...]


def host_name(text: str) -> str:
    """A host as rules see it: lower case, ASCII, no trailing dot; an address in its one canonical form.

    Raises BadTarget for anything that is neither a name nor an address.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return _address(bare)
    except BadTarget:
        raise
    except ValueError:
        pass
    name = text.lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise BadTarget("the host is no valid name") from None
    name = name.removesuffix(".")
    if not name or len(name) > 253 or not all(_LABEL.match(label) for label in name.split(".")):
        raise BadTarget("the host is neither a name nor an address")
    if _NUMBER.match(name.rpartition(".")[2]):
        # `0x7f.1`, `2130706433`, `010.0.0.1`: resolvers take them for addresses, and rules would not
        try:
            return _address(name)
        except ValueError:
            raise BadTarget("an address has four decimal numbers: no other form of one is taken") from None
    return name


def _address(text: str) -> str:
    """Raises ValueError for what is no address, BadTarget for one that means something on one machine only."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise BadTarget("an address with a zone: leave out what follows the `%`")
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)  # the same place under another name
    return str(address)


def split_authority(text: str, default_port: int) -> tuple[str, int]:
    """`host`, `host:port`, `[::1]:port` -> (host as `host_name` gives it, port). Raises BadTarget."""
    if "@" in text:
        raise BadTarget("a user name in the host")
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        host += bracket
        if rest and not rest.startswith(":"):
            raise BadTarget("the host is neither a name nor an address")
        port = rest[1:]
    elif ":" in text:
        host, _, port = text.rpartition(":")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise BadTarget("the port is no number from 1 to 65535")
    return host_name(host), int(port) if port else default_port


def read_target(path: str, host: str, port: int) -> Target:
    """Takes a request's path and query apart. Raises BadTarget."""
    if len(path) > MAX_TARGET:
        raise BadTarget(f"the request target is longer than {MAX_TARGET} characters")
    if not path.isascii() or not path.isprintable() or " " in path or "#" in path:
        raise BadTarget("characters in the request target that must be percent-encoded")
    raw, mark, query = path.partition("?")
    if not raw.startswith("/") and raw != "*":
        raise BadTarget("the path does not begin with a slash")
    return Target(host, port, readings(raw), parameters(query) if mark else ())


def readings(raw: str) -> tuple[str, ...]:
    """All paths that a server could take this one for. Raises BadTarget."""
    found = [_decode(raw)]
    for _ in range(_DECODED_AGAIN):
        if "%" not in found[-1] or _BAD_ESCAPE.search(found[-1]):
            break
        found.append(_decode(found[-1]))  # decoded again behind another proxy
    else:
        if "%" in found[-1] and not _BAD_ESCAPE.search(found[-1]):
            raise BadTarget("a path that is percent-encoded over and over")
    for text in list(found):
        if not text.isascii():
            found.append(unicodedata.normalize("NFKC", text))  # `\uff41` is `a` for some
    for text in list(found):
        if "\\" in text:
            found.append(text.replace("\\", "/"))
        if ";" in text:
            found.append("/".join(part.partition(";")[0] for part in text.split("/")))
    for text in list(found):
        found += [_resolved(text), _collapsed(text)]
    for text in list(found):
        bare = "/".join(part.rstrip(" .") if part.strip(". ") else part for part in text.split("/"))
        found.append(bare)
    if "%2f" in raw.lower() or "%5c" in raw.lower():
        found.append(raw)  # a server that leaves an encoded slash alone
    if any(not text.isprintable() for text in found):
        raise BadTarget("control characters in the path")
    unique = dict.fromkeys(found)
    return tuple(unique)


def _decode(text: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise BadTarget("a percent sign that encodes nothing")
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise BadTarget("the path is not UTF-8") from None


def _collapsed(path: str) -> str:
    return re.sub("/{2,}", "/", path)


def _resolved(path: str) -> str:
    if path == "*":
        return path
    flat = posixpath.normpath(_collapsed(path))
    return flat + "/" if path.endswith(("/", "/.", "/..")) and flat != "/" else flat


def parameters(query: str) -> tuple[tuple[str, str], ...]:
    """Every parameter that a server could read, decoded; with `;` taken for a separator and not. Raises BadTarget."""
    found: dict[tuple[str, str], None] = {}
    for separated in {query, query.replace(";", "&")}:
        if separated.count("&") >= MAX_PARAMETERS:
            raise BadTarget(f"more than {MAX_PARAMETERS} query parameters")
        pieces = separated.split("&")
        for piece in pieces:
            if piece:
                name, _, value = piece.partition("=")
                found[_plus(name), _plus(value)] = None
    return tuple(found)


def _plus(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")

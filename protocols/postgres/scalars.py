"""Wire formats of single values: text and binary form <-> the text that a mask works on (`ValueKind`).

Binary forms are those of PostgreSQL's send and receive functions (src/backend/utils/adt), text forms those of the
output functions under `DateStyle ISO`. Both forms of one value read as the same text, so its mask is the same in both.
What cannot be read with certainty (an infinity, a year before 1 or after 9999, another DateStyle) is `Unmaskable`: the
caller makes it NULL.

INVARIANT: no I/O; reads every byte of a value or refuses it.
"""

from __future__ import annotations

import ipaddress
import re
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

from protocols.contract import ValueKind

Reader = Callable[[bytes], str]
Writer = Callable[[str], bytes]


class Unmaskable(ValueError):
    """A value that cannot be read or written with certainty in its type."""


# what odd bytes may raise in a reader, a mask or a writer; anything else is a fault of ours and ends the session
REFUSALS = (ValueError, ArithmeticError, LookupError, struct.error, RecursionError)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One type in both forms. `limit` as in `ColumnMask.apply`."""

    kind: ValueKind
    read_text: Reader
    write_text: Writer
    read_binary: Reader
    write_binary: Writer
    limit: int | None = None


# Python's codec for each client_encoding (documentation, section 24.3.1). SQL_ASCII promises nothing about its bytes:
# one character per byte carries them through. What is not here cannot be read: only constant masks apply then.
CODECS = {
    "SQL_ASCII": "latin-1", "UTF8": "utf-8", "UNICODE": "utf-8", "LATIN1": "latin-1", "LATIN2": "iso8859-2",
    "LATIN3": "iso8859-3", "LATIN4": "iso8859-4", "LATIN5": "iso8859-9", "LATIN6": "iso8859-10", "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14", "LATIN9": "iso8859-15", "LATIN10": "iso8859-16", "ISO_8859_5": "iso8859-5",
    "ISO_8859_6": "iso8859-6", "ISO_8859_7": "iso8859-7", "ISO_8859_8": "iso8859-8", "KOI8R": "koi8-r",
    "KOI8U": "koi8-u", "WIN866": "cp866", "WIN874": "cp874", "WIN1250": "cp1250", "WIN1251": "cp1251",
    "WIN1252": "cp1252", "WIN1253": "cp1253", "WIN1254": "cp1254", "WIN1255": "cp1255", "WIN1256": "cp1256",
    "WIN1257": "cp1257", "WIN1258": "cp1258", "EUC_JP": "euc_jp", "EUC_KR": "euc_kr", "EUC_CN": "gb2312",
    "SJIS": "cp932", "BIG5": "cp950", "GBK": "gbk", "GB18030": "gb18030", "UHC": "cp949", "JOHAB": "johab",
}  # fmt: skip
# encodings in which a byte of a longer character can look like ASCII: bytes cannot be split at delimiters there
EMBEDS_ASCII = frozenset({"SJIS", "BIG5", "GBK", "GB18030", "UHC", "JOHAB", "SHIFT_JIS_2004"})


def encoding_name(name: str) -> str:
    """A client_encoding as the tables here spell it: PostgreSQL ignores case and punctuation (`utf-8` is `UTF8`)."""
    plain = re.sub(r"[^A-Z0-9]", "", name.upper())
    return next((known for known in (*CODECS, *EMBEDS_ASCII) if known.replace("_", "") == plain), name.upper())


@lru_cache(64)
def codec_of(encoding: str) -> str | None:
    """Python's name of a client_encoding; None where it has none."""
    return CODECS.get(encoding_name(encoding))


# ---------------------------------------------------------------- texts


def text(codec: str | None, limit: int | None = None, *, padded: bool = False) -> Scalar:
    """`codec` None: an encoding that we cannot read. `padded`: character(n), filled with blanks to `limit`."""

    def read(raw: bytes) -> str:
        if codec is None:
            raise Unmaskable("the client encoding is not known")
        value = raw.decode(codec)
        return value.rstrip(" ") if padded else value

    def write(value: str) -> bytes:
        if limit is not None and len(value) > limit:
            raise Unmaskable("longer than the column")
        if padded and limit is not None:
            value = value.ljust(limit)
        # every client encoding of PostgreSQL holds ASCII as it is
        return value.encode(codec or "ascii")

    return Scalar(ValueKind.TEXT, read, write, read, write, limit)


def xml(codec: str | None) -> Scalar:
    """Content without markup is a text; what would become of tags and entities under a mask is no XML."""
    plain = text(codec)

    def read(raw: bytes) -> str:
        value = plain.read_text(raw)
        if "<" in value or "&" in value:
            raise Unmaskable("marked-up content")
        return value

    return Scalar(ValueKind.TEXT, read, plain.write_text, read, plain.write_binary)


def json_document(codec: str | None, *, binary_version: bytes = b"") -> Scalar:
    """json, and jsonb with its version byte before the binary form (jsonb_send)."""
    plain = text(codec)

    def read_binary(raw: bytes) -> str:
        if not raw.startswith(binary_version):
            raise Unmaskable("unknown version of jsonb")
        return plain.read_text(raw[len(binary_version) :])

    def write_binary(value: str) -> bytes:
        return binary_version + plain.write_text(value)

    return Scalar(ValueKind.JSON, plain.read_text, plain.write_text, read_binary, write_binary)


# ---------------------------------------------------------------- numbers

_INTEGER = re.compile(r"-?\d+\Z", re.ASCII)
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?\Z", re.ASCII)


def integer(form: str) -> Scalar:
    """`form`: the struct code of the binary form (`h`, `i`, `q`, `I`)."""
    packed = struct.Struct("!" + form)
    high = 2 ** (8 * packed.size - (form.islower())) - 1
    low = -high - 1 if form.islower() else 0

    def read_text(raw: bytes) -> str:
        value = raw.decode("ascii")
        if not _INTEGER.match(value):
            raise Unmaskable("not an integer")
        return str(int(value))

    def number(value: str) -> int:
        n = int(value)
        if not low <= n <= high:
            raise Unmaskable("out of the type's range")
        return n

    def write_text(value: str) -> bytes:
        return b"%d" % number(value)

    def read_binary(raw: bytes) -> str:
        return str(packed.unpack(raw)[0])

    def write_binary(value: str) -> bytes:
        return packed.pack(number(value))

    return Scalar(ValueKind.INTEGER, read_text, write_text, read_binary, write_binary, high)


def numeric(type_mod: int) -> Scalar:
    """`type_mod` of numeric(precision, scale): precision in the upper half, an 11-bit signed scale, plus 4."""
    limit = None
    if type_mod >= 4:
        scale = (type_mod - 4) & 0x7FF
        limit = max(((type_mod - 4) >> 16 & 0xFFFF) - ((scale ^ 1024) - 1024), 0)

    def read_text(raw: bytes) -> str:
        value = raw.decode("ascii")
        if not _NUMBER.match(value):
            raise Unmaskable("not a finite number")
        return value

    def write_text(value: str) -> bytes:
        found = _NUMBER.match(value)
        if found is None or (limit is not None and len(found[2].lstrip("0")) > limit):
            raise Unmaskable("not a number that fits")
        return value.encode("ascii")

    def write_binary(value: str) -> bytes:
        return _numeric_binary(write_text(value).decode("ascii"))

    return Scalar(ValueKind.NUMBER, read_text, write_text, _numeric_text, write_binary, limit)


_NUMERIC_HEAD = struct.Struct("!HhHH")  # number of base-10000 digits, weight of the first, sign, scale for display


def _numeric_text(raw: bytes) -> str:
    count, weight, sign, scale = _NUMERIC_HEAD.unpack_from(raw)
    if sign not in (0x0000, 0x4000) or len(raw) != 8 + 2 * count:
        raise Unmaskable("not a finite number")
    groups = struct.unpack_from(f"!{count}H", raw, 8)
    if any(g > 9999 for g in groups):
        raise Unmaskable("not base 10000")
    digits = "".join(f"{g:04d}" for g in groups)
    point = 4 * (weight + 1)
    if point < 0:
        digits, point = "0" * -point + digits, 0
    digits = digits.ljust(point, "0")
    whole = digits[:point].lstrip("0") or "0"
    fraction = digits[point : point + scale].ljust(scale, "0")
    return ("-" if sign else "") + whole + ("." + fraction if scale else "")


def _numeric_binary(value: str) -> bytes:
    found = _NUMBER.match(value)
    if found is None:
        raise Unmaskable("not a number")
    whole, fraction = found[2].lstrip("0"), found[3] or ""
    weight = (len(whole) + 3) // 4 - 1
    digits = whole.rjust(4 * (weight + 1), "0") + fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    groups = [int(digits[i : i + 4]) for i in range(0, len(digits), 4)]
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    sign = 0x4000 if found[1] and groups else 0
    head = _NUMERIC_HEAD.pack(len(groups), weight if groups else 0, sign, len(fraction))
    return head + struct.pack(f"!{len(groups)}H", *groups)


def floating(form: str) -> Scalar:
    """`form`: `f` or `d`. Written out without an exponent, with the fewest digits that read back as the same value."""
    packed = struct.Struct("!" + form)

    def show(value: float) -> str:
        short = repr(value)
        if form == "f":
            short = next(s for p in range(6, 10) if _single(float(s := f"{value:.{p}g}")) == value)
        return format(Decimal(short), "f").removesuffix(".0")

    def read_text(raw: bytes) -> str:
        return show(_finite(_single(float(raw)) if form == "f" else float(raw)))

    def read_binary(raw: bytes) -> str:
        return show(_finite(packed.unpack(raw)[0]))

    def write_binary(value: str) -> bytes:
        return packed.pack(_finite(float(value)))

    def write_text(value: str) -> bytes:
        return show(_finite(packed.unpack(write_binary(value))[0])).encode("ascii")

    return Scalar(ValueKind.NUMBER, read_text, write_text, read_binary, write_binary, 7 if form == "f" else 15)


def _finite(value: float) -> float:
    if value - value != 0:
        raise Unmaskable("not a finite number")
    return value


def _single(value: float) -> float:
    return float(struct.unpack("!f", struct.pack("!f", value))[0])


# ---------------------------------------------------------------- dates

_EPOCH = datetime(2000, 1, 1)  # the zero of the binary forms
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)\Z", re.ASCII)
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?)([+-]\d\d(?::\d\d){0,2})?\Z", re.ASCII)
_DAYS = struct.Struct("!i")
_MICROSECONDS = struct.Struct("!q")


def calendar_date() -> Scalar:
    def read_text(raw: bytes) -> str:
        value = raw.decode("ascii")
        if not _DATE.match(value):
            raise Unmaskable("not an ISO date")
        return date.fromisoformat(value).isoformat()

    def write_text(value: str) -> bytes:
        return date.fromisoformat(value).isoformat().encode("ascii")

    def read_binary(raw: bytes) -> str:
        return (_EPOCH.date() + timedelta(days=_DAYS.unpack(raw)[0])).isoformat()

    def write_binary(value: str) -> bytes:
        return _DAYS.pack((date.fromisoformat(value) - _EPOCH.date()).days)

    return Scalar(ValueKind.DATE, read_text, write_text, read_binary, write_binary)


def timestamp(*, zone: bool) -> Scalar:
    """With a zone everything is in UTC: the session's own offset would tell winter from summer under a masked date."""

    def moment(value: str) -> datetime:
        found = _TIMESTAMP.match(value)
        if found is None or (found[2] is not None) != zone:
            raise Unmaskable("not an ISO timestamp")
        at = datetime.fromisoformat(found[1])
        if found[2]:
            hours, minutes, seconds = (int(x) for x in (found[2][1:] + ":00:00").split(":")[:3])
            offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
            at = at + offset if found[2][0] == "-" else at - offset
        return at

    def read_text(raw: bytes) -> str:
        return moment(raw.decode("ascii")).isoformat(" ")

    def write_text(value: str) -> bytes:
        return (datetime.fromisoformat(value).isoformat(" ") + ("+00" if zone else "")).encode("ascii")

    def read_binary(raw: bytes) -> str:
        return (_EPOCH + timedelta(microseconds=_MICROSECONDS.unpack(raw)[0])).isoformat(" ")

    def write_binary(value: str) -> bytes:
        return _MICROSECONDS.pack((datetime.fromisoformat(value) - _EPOCH) // timedelta(microseconds=1))

    return Scalar(ValueKind.TIMESTAMP, read_text, write_text, read_binary, write_binary)


# ---------------------------------------------------------------- the rest


def unique_id() -> Scalar:
    def read_text(raw: bytes) -> str:
        return str(uuid.UUID(raw.decode("ascii")))

    def read_binary(raw: bytes) -> str:
        return str(uuid.UUID(bytes=raw))

    def write_text(value: str) -> bytes:
        return str(uuid.UUID(value)).encode("ascii")

    def write_binary(value: str) -> bytes:
        return uuid.UUID(value).bytes

    return Scalar(ValueKind.UUID, read_text, write_text, read_binary, write_binary)


_ESCAPED = re.compile(rb"\\(\\|[0-3][0-7]{2})|([^\\])", re.DOTALL)


def byte_string() -> Scalar:
    """bytea. Its text form is `\\x` and hex digits, or under `bytea_output = escape` text with octal escapes."""

    def read_text(raw: bytes) -> str:
        if raw.startswith(b"\\x"):
            return bytes.fromhex(raw[2:].decode("ascii")).hex()
        if _ESCAPED.sub(b"", raw):
            raise Unmaskable("not a bytea in escape form")
        return _ESCAPED.sub(_unescape, raw).hex()

    def write_text(value: str) -> bytes:
        return b"\\x" + bytes.fromhex(value).hex().encode("ascii")

    return Scalar(ValueKind.BYTES, read_text, write_text, bytes.hex, bytes.fromhex)


def _unescape(found: re.Match[bytes]) -> bytes:
    if found[2] is not None:
        return found[2]
    return b"\\" if found[1] == b"\\" else bytes((int(found[1], 8),))


_ADDRESS_HEAD = struct.Struct("!BBBB")  # family (2: IPv4, 3: IPv6), network bits, 1 for cidr, number of address bytes


def address(*, cidr: bool) -> Scalar:
    """inet and cidr. The network's size is not kept: a masked value is always a single host."""

    def read_text(raw: bytes) -> str:
        return str(ipaddress.ip_address(raw.decode("ascii").partition("/")[0]))

    def write_text(value: str) -> bytes:
        host = ipaddress.ip_address(value)
        return (f"{host}/{host.max_prefixlen}" if cidr else str(host)).encode("ascii")

    def read_binary(raw: bytes) -> str:
        _, _, _, size = _ADDRESS_HEAD.unpack_from(raw)
        if size not in (4, 16) or len(raw) != 4 + size:
            raise Unmaskable("not an address")
        return str(ipaddress.ip_address(raw[4:]))

    def write_binary(value: str) -> bytes:
        host = ipaddress.ip_address(value)
        packed = host.packed
        return _ADDRESS_HEAD.pack(2 if host.version == 4 else 3, host.max_prefixlen, cidr, len(packed)) + packed

    return Scalar(ValueKind.ADDRESS, read_text, write_text, read_binary, write_binary)


def opaque() -> Scalar:
    """A type with no value that a mask could give: booleans, enums, composites, ranges, intervals, money."""

    def read(_raw: bytes) -> str:
        return ""

    def write(_value: str) -> bytes:
        raise Unmaskable("no masked value exists in this type")

    return Scalar(ValueKind.OPAQUE, read, write, read, write)

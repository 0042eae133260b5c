"""What each strategy makes of one value. Text in, text of the same kind out, None for SQL NULL.

A placeholder is given only where nobody can take it for data: a text, a JSON document and bytes can hold a word; a
number, a date, a truth value cannot, and become NULL. What has no valid answer in the column's type becomes NULL too.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from guard.mask import tokens
from protocols.contract import MaskRule, ValueKind

type Transform = Callable[[str, ValueKind, int | None], str | None]

PLACEHOLDER = "[masked]"
MAX_PARTIAL = 65_536  # characters; a longer text would hold the event loop for milliseconds: it is withheld
MIN_HASH = 8  # hex digits; fewer collide too often to tell values apart

# strictest first: of several rules on one column the first of these decides
STRATEGIES = ("withhold", "null", "redact", "hash", "tokenise", "partial", "date", "watch")
WATCH = "watch"  # shown as it is, and remembered: a value that must not leave elsewhere

_OPTIONS: Mapping[str, frozenset[str]] = {
    "null": frozenset(),
    "redact": frozenset({"text"}),
    "hash": frozenset({"length", "domain"}),
    "tokenise": frozenset({"domain"}),
    "partial": frozenset({"keep_first", "keep_last"}),
    "date": frozenset({"precision"}),
    WATCH: frozenset(),
}
_PRECISIONS = ("year", "month", "day")
# punctuation that shows a value's format and carries nothing of it
_SEPARATORS = frozenset(" -./:@()+,_")
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[ T].*)?\Z", re.DOTALL | re.ASCII)
_JSON_NUMBER = re.compile(r"-?\d+(?:\.\d+)?\Z", re.ASCII)
_LEADING_ZEROS = re.compile(r"^(-?)0+(?=\d)")
_DEFAULT_DIGITS = 15  # of a hash in a number without a declared precision: a float keeps them exactly
_MAX_INTEGER = 2**63 - 1


class MaskRuleError(ValueError):
    """A mask rule that cannot work. The text names the rule and every problem."""


def check_rule(rule: MaskRule) -> list[str]:
    """Every problem of a rule's strategy and options, for the person who wrote it; empty when it is fine."""
    allowed = _OPTIONS.get(rule.strategy)
    if allowed is None:
        return [f"mask strategy `{rule.strategy}` does not exist: use one of {', '.join(_OPTIONS)}"]
    options = given(rule)
    problems = [
        f"mask strategy `{rule.strategy}` has no option `{name}`"
        + (f": it has {', '.join(sorted(allowed))}" if allowed else "")
        for name in sorted(set(options) - allowed)
    ]
    for name in ("keep_first", "keep_last"):
        value = options.get(name, 0)
        if not _is_count(value):
            problems.append(f"`{name}` must be a number of characters, 0 or more")
    length = options.get("length", 64)
    if rule.strategy == "hash" and not (_is_count(length) and MIN_HASH <= length <= 64):
        problems.append(f"`length` must be a number of hex digits from {MIN_HASH} to 64")
    if rule.strategy == "date" and options.get("precision", "year") not in _PRECISIONS:
        problems.append(f"`precision` must be one of {', '.join(_PRECISIONS)}")
    if rule.unknown_origin not in ("withhold", "pass"):
        problems.append("`unknown_origin` must be withhold or pass")
    for name in ("text", "domain"):
        value = options.get(name, "x")
        if not isinstance(value, str) or not value or "\0" in value:
            problems.append(f"`{name}` must be a text that is not empty")
    return problems


def given(rule: MaskRule) -> dict[str, Any]:
    """The options that somebody wrote: a None stands for the default."""
    return {k: v for k, v in rule.options.items() if v is not None}


def strictness(rule: MaskRule) -> tuple[int, int]:
    """Sorts rules on one column, strictest first: by strategy, then by how much its options leave visible."""
    options = given(rule)
    shown = {
        "partial": options.get("keep_first", 0) + options.get("keep_last", 0),
        "date": _PRECISIONS.index(options.get("precision", "year")),
        "hash": options.get("length", 64),
    }
    return STRATEGIES.index(rule.strategy), shown.get(rule.strategy, 0)


def build(rule: MaskRule, key: bytes, domain: str) -> Transform:
    """The transform of a checked rule. `domain` separates hashes and tokens: equal values are equal within it only."""
    options = given(rule)
    label = f"{rule.strategy}\0{options.get('domain') or domain}"
    subkey = hmac.digest(key, b"sluicegate mask v1\0" + label.encode("utf-8", "surrogatepass"), "sha256")
    match rule.strategy:
        case "null":
            return withhold
        case "redact":
            return _redact(options.get("text", PLACEHOLDER))
        case "hash":
            return _hash(subkey, options.get("length", 64))
        case "tokenise":
            return _tokenise(subkey)
        case "partial":
            return _partial(options.get("keep_first", 0), options.get("keep_last", 0))
        case "date":
            return _date(options.get("precision", "year"))
        case "watch":
            return _as_it_is
    raise MaskRuleError(f"mask rule `{rule.rule}`: strategy `{rule.strategy}` does not exist")


def withhold(_text: str, _kind: ValueKind, _limit: int | None) -> str | None:
    return None


def _as_it_is(text: str, _kind: ValueKind, _limit: int | None) -> str | None:
    return text


def _redact(word: str) -> Transform:
    def redact(_text: str, kind: ValueKind, limit: int | None) -> str | None:
        match kind:
            case ValueKind.TEXT:
                return word if limit is None or len(word) <= limit else "*" * limit
            case ValueKind.JSON:
                return json.dumps(word)
            case ValueKind.BYTES:
                return word.encode("utf-8", "surrogatepass").hex()
        return None

    return redact


def _hash(key: bytes, length: int) -> Transform:
    def hashed(text: str, kind: ValueKind, limit: int | None) -> str | None:
        mac = hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")
        match kind:
            case ValueKind.TEXT:
                size = length if limit is None else min(length, limit)
                return mac.hex()[:size] if size >= MIN_HASH else None
            case ValueKind.INTEGER:
                top = _MAX_INTEGER if limit is None else limit
                return str(int.from_bytes(mac) % (top + 1))
            case ValueKind.NUMBER:
                digits = _DEFAULT_DIGITS if limit is None else min(limit, _DEFAULT_DIGITS)
                return str(int.from_bytes(mac) % 10**digits) if digits > 0 else None
            case ValueKind.BYTES:
                return mac.hex()[: length - length % 2]
            case ValueKind.JSON:
                return json.dumps(mac.hex()[:length])
        return _stand_in(mac, text, kind)

    return hashed


def _tokenise(key: bytes) -> Transform:
    def tokenised(text: str, kind: ValueKind, limit: int | None) -> str | None:
        match kind:
            case ValueKind.TEXT:
                return tokens.tokenise(key, text)
            case ValueKind.INTEGER | ValueKind.NUMBER:
                return _tokenise_number(key, text, limit if kind is ValueKind.INTEGER else None)
            case ValueKind.JSON:
                return _inside_json(text, tokenised)
            case ValueKind.BYTES:
                mac = hmac.digest(key, bytes.fromhex(text), "sha256")
                return hashlib.shake_256(mac).hexdigest(len(text) // 2)
        return _stand_in(hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256"), text, kind)

    return tokenised


def _partial(first: int, last: int) -> Transform:
    def partial(text: str, kind: ValueKind, limit: int | None) -> str | None:
        if len(text) > MAX_PARTIAL:
            return None
        match kind:
            case ValueKind.TEXT:
                return _hide(text, first, last, "*")
            case ValueKind.INTEGER | ValueKind.NUMBER:
                # a zero never makes a number larger, so the type's range holds
                return _LEADING_ZEROS.sub(r"\1", _hide(text, first, last, "0"))
            case ValueKind.UUID:
                return _hide(text, first, last, "0")
            case ValueKind.JSON:
                return _inside_json(text, partial)
        return None

    return partial


def _date(precision: str) -> Transform:
    kept = _PRECISIONS.index(precision)

    def date(text: str, kind: ValueKind, limit: int | None) -> str | None:
        if kind is ValueKind.JSON:
            return _inside_json(text, date)
        if kind not in (ValueKind.TEXT, ValueKind.DATE, ValueKind.TIMESTAMP):
            return None
        found = _DATE.match(text)
        if found is None:
            return None
        parts = [found[1], found[2] if kept >= 1 else "01", found[3] if kept >= 2 else "01"]
        day = "-".join(parts)
        if kind is ValueKind.TEXT and limit is not None and len(day) > limit:
            return None
        return f"{day} 00:00:00" if kind is ValueKind.TIMESTAMP else day

    return date


def _hide(text: str, first: int, last: int, filler: str) -> str:
    """Keeps the first and last letters and digits and the separators.

    At least a third of the letters and digits is hidden, or all of them: `keep_last: 4` must not show four of five.
    Of a text that is mostly punctuation (a password) the punctuation is the value: it is hidden too.
    """
    places = [i for i, c in enumerate(text) if c.isalnum()]
    hidden = len(places) - first - last
    kept = set(places[:first] + places[len(places) - last :]) if 3 * hidden >= len(places) > 0 else set()
    formatted = filler == "0" or 2 * len(places) >= len(text)
    return "".join(
        c if i in kept or (formatted and not c.isalnum() and (c in _SEPARATORS)) else filler for i, c in enumerate(text)
    )


def _tokenise_number(key: bytes, text: str, limit: int | None) -> str | None:
    """As many digits, sign and point where they were; no leading zero that would vanish, nothing above `limit`."""
    digits = "".join(c for c in text if c.isdigit())
    whole = len(text.lstrip("-").partition(".")[0])
    if not digits or len(digits) > tokens.MAX_CHARS:
        return None
    low = 10 ** (len(digits) - 1) if whole > 1 else 0
    high = 10 ** len(digits) - 1 if limit is None else min(limit, 10 ** len(digits) - 1)
    token = tokens.tokenise_digits(key, digits, low, high)
    if token is None:
        return None
    out = iter(token)
    return "".join(next(out) if c.isdigit() else c for c in text)


def _inside_json(text: str, transform: Transform) -> str | None:
    """Applies to a JSON string or number; what an object or array means is not known here, so it is withheld."""
    stripped = text.strip()
    if stripped.startswith('"'):
        try:
            value = json.loads(stripped)
        except ValueError:
            return None
        masked = transform(value, ValueKind.TEXT, None)
        return None if masked is None else json.dumps(masked)
    if _JSON_NUMBER.match(stripped):
        return transform(stripped, ValueKind.NUMBER, None)
    return None


def _stand_in(mac: bytes, text: str, kind: ValueKind) -> str | None:
    """A made-up value of a kind that has room for one: a random-looking UUID, a private address."""
    match kind:
        case ValueKind.UUID:
            return str(uuid.UUID(bytes=mac[:16], version=4))
        case ValueKind.ADDRESS if ":" in text:
            return str(ipaddress.IPv6Address(b"\xfd" + mac[:15]))
        case ValueKind.ADDRESS:
            return str(ipaddress.IPv4Address(b"\x0a" + mac[:3]))
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

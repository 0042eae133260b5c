"""Errors and notices of a statement that reads masked columns: what of them may be shown.

A server message quotes values in many ways: in quotes (`invalid input syntax for type integer: "123-45-6789"`), bare
(`RAISE NOTICE 'x %', ssn`), as a name (`ssn::regclass` gives `relation "123-45-6789" does not exist`), in DETAIL
(`Failing row contains (...)`), in the language of `lc_messages`. So a message is shown only where its wording is known
here, with the values in it replaced; any other becomes the name of its SQLSTATE's class. DETAIL, HINT, CONTEXT and the
internal query go.

Errors about the client's own text (class 42 with a position) quote that text and nothing of a row: they stay. The
server gives no position to what fails while rows are read; an error inside a function has an internal query or a
context.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

MASKED = "[masked]"

_NAMES = frozenset("stcdn")  # schema, table, column, data type, constraint
_DROPPED = frozenset("DHWqp")
_TYPE = (
    r"(?:smallint|integer|bigint|oid|numeric|real|double precision|money|boolean|uuid|bytea|date|interval|xml|jsonb?"
    r"|time(?:stamp)?(?: with(?:out)? time zone)?|inet|cidr|macaddr8?|bit|point|line|box|path|polygon|circle|tsvector"
    r"|tsquery|pg_lsn|xid8?|tid|regclass|regtype)"
)
_QUOTED = r'"(?P<value>.*)"'

# wordings with a value in them: the group is replaced, what is around it is fixed
_WITH_VALUE = tuple(
    re.compile(p, re.DOTALL)
    for p in (
        rf"invalid input syntax for type {_TYPE}: {_QUOTED}",
        r"invalid input value for enum (?P<value>.*)",
        rf"value {_QUOTED} is out of range for type {_TYPE}",
        rf"{_QUOTED} is out of range for type {_TYPE}",
        rf"malformed (?:array|record|range|multirange) literal: {_QUOTED}",
        rf"date/time field value out of range: {_QUOTED}",
        rf"interval field value out of range: {_QUOTED}",
        rf"time zone {_QUOTED} not recognized",
        rf"time zone displacement out of range: {_QUOTED}",
        rf"invalid hexadecimal digit: {_QUOTED}",
        r"invalid symbol (?P<value>.*)",
        r"invalid value (?P<value>.*)",
        r"invalid regular expression: (?P<value>.*)",
        r'invalid byte sequence for encoding "UTF8": (?P<value>.*)',
        r"requested character too large for encoding: (?P<value>.*)",
        r"invalid memory alloc request size (?P<value>.*)",
    )
)
# wordings that hold no value of a row
_PLAIN = re.compile(
    "|".join(
        (
            r"division by zero",
            r"(?:smallint|integer|bigint|numeric|real|double precision|date|timestamp|interval|money) out of range",
            r"value overflows numeric format",
            r"value out of range(?:: (?:overflow|underflow))?",
            r"numeric field overflow",
            r"value too long for type character(?: varying)?\(\d{1,8}\)",
            r"cannot take (?:logarithm|square root) of (?:zero|a negative number)",
            r"invalid input syntax for type (?:json|xml)",
            r"more than one row returned by a subquery used as an expression",
            r"current transaction is aborted, commands ignored until end of transaction block",
            r"canceling statement due to (?:statement timeout|user request|lock timeout|conflict with recovery)",
            r"canceling autovacuum task",
            r"terminating connection due to (?:administrator command|idle-in-transaction timeout|idle-session timeout"
            r"|transaction timeout|conflict with recovery)",
            r"the database system is (?:starting up|shutting down|in recovery mode)",
            r"could not serialize access due to (?:concurrent (?:update|delete)"
            r"|read/write dependencies among transactions)",
            r"deadlock detected",
            r"out of memory|out of shared memory|stack depth limit exceeded|statement too complex",
            r"cannot execute [A-Z ]{1,40} in a read-only transaction",
            r"there is (?:no|already a) transaction in progress",
            r"negative substring length not allowed|step size cannot equal zero",
        )
    )
)
# wordings that quote names which the server gives in fields of their own
_WITH_NAMES = re.compile(
    r'duplicate key value violates unique constraint "(?P<n>[^"]*)"'
    r'|null value in column "(?P<c1>[^"]*)" of relation "(?P<t1>[^"]*)" violates not-null constraint'
    r'|new row for relation "(?P<t2>[^"]*)" violates check constraint "(?P<n2>[^"]*)"'
    r'|insert or update on table "(?P<t3>[^"]*)" violates foreign key constraint "(?P<n3>[^"]*)"'
    r'|update or delete on table "(?P<t4>[^"]*)" violates foreign key constraint "(?P<n4>[^"]*)"'
    r' on table "(?P<x4>[^"]*)"'
    r'|conflicting key value violates exclusion constraint "(?P<n5>[^"]*)"'
    r'|no partition of relation "(?P<t5>[^"]*)" found for row'
    r'|value for domain (?P<d1>"?[A-Za-z_][\w"]*) violates check constraint "(?P<n6>[^"]*)"'
)
_CLASSES = {
    "00": "notice", "01": "warning", "02": "no data", "08": "connection exception", "0A": "feature not supported",
    "21": "cardinality violation", "22": "data exception", "23": "integrity constraint violation",
    "25": "invalid transaction state", "28": "invalid authorization", "40": "transaction rollback",
    "42": "syntax error or access rule violation", "44": "check option violation", "53": "insufficient resources",
    "54": "program limit exceeded", "55": "object not in prerequisite state", "57": "operator intervention",
    "58": "system error", "P0": "raised by a function", "XX": "internal error",
}  # fmt: skip


def scrub(fields: Mapping[str, str], touched: bool) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse, by their codes (section 54.8), as a client may see them.

    `touched`: the statement reads or writes a relation with masked columns, or may do so. When it does not, the fields
    come back as they are. Severity, SQLSTATE, position, file, line and routine always stay.
    """
    if not touched or _about_the_text(fields):
        return dict(fields)
    # a function can raise an error with any names in these fields; whatever a function raises has a context
    direct = "W" not in fields
    dropped = _DROPPED if direct else _DROPPED | _NAMES
    names = [fields[code] for code in _NAMES if code in fields] if direct else []
    shown = {code: value for code, value in fields.items() if code not in dropped}
    if "M" in shown:
        shown["M"] = _message(shown["M"], fields.get("C", ""), names)
    return shown


def _about_the_text(values: Mapping[str, str]) -> bool:
    return values.get("C", "").startswith("42") and "P" in values and not values.keys() & {"q", "p", "W", "D"}


def _message(message: str, sqlstate: str, names: Collection[str]) -> str:
    """`names`: the name fields of an error that no function raised; none for any other."""
    if _PLAIN.fullmatch(message):
        return message
    for pattern in _WITH_VALUE:
        found = pattern.fullmatch(message)
        if found is not None:
            start, end = found.span("value")
            return message[:start] + MASKED + message[end:]
    found = _WITH_NAMES.fullmatch(message)
    if found is not None:
        quoted = [name.strip('"') for name in found.groupdict().values() if name is not None]
        if quoted and all(name in names for name in quoted):
            return message
    kind = _CLASSES.get(sqlstate[:2], "error")
    return f"{MASKED} {kind}: the text may quote masked data and is withheld"

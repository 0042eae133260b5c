"""Errors of a statement that reads masked columns: what of their text may be shown.

A server's message quotes values (`Duplicate entry '123-45-6789' for key 'ssn'`, `Truncated incorrect DOUBLE value:
'...'`, `XPATH syntax error: '...'`), expressions in which constants were put for columns (`BIGINT value is out of
range in '(...)'`), in the language of `lc_messages`. So a text is shown only where its number and wording are known
here, with the values in it replaced; any other becomes the name of its SQLSTATE's class. Number and SQLSTATE stay.

Code that the gateway did not see into (procedures, triggers, dynamic SQL) can raise any number with any text: nothing
of such a text is shown.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re

MASKED = "[masked]"

# Raised while the client's own text is read and its names are looked up, before any row is: they quote that text. (No
# SET is among them: the value of a variable may come from a row.)
_ABOUT_TEXT = frozenset(
    {
        1044, 1046, 1047, 1049, 1050, 1051, 1052, 1054, 1055, 1056, 1060, 1061, 1064, 1066, 1068, 1091, 1103, 1109,
        1110, 1111, 1120, 1136, 1140, 1142, 1143, 1146, 1149, 1176, 1191, 1222, 1227, 1241, 1243, 1247, 1248, 1250,
        1253, 1267, 1270, 1271, 1305, 1318, 1348, 1356, 1370, 1382, 1414, 1424, 1442, 1471, 1582, 1583, 1584, 1615,
        1630, 3065, 3593, 4031,
    }
)  # fmt: skip
_NAME = r"(?:[\w$]+|`[^`'\"]{1,64}`)(?:\.(?:[\w$]+|`[^`'\"]{1,64}`)){0,2}"
_COLUMN = rf"column '?{_NAME}'?"
_ROW = r"(?: at row \d+)?"

# by number: wordings without a value of a row, or with values in the groups named `value...`, which are replaced
_WORDINGS: dict[int, tuple[re.Pattern[str], ...]] = {
    number: tuple(re.compile(p, re.DOTALL) for p in patterns)
    for number, patterns in {
        1048: (r"Column '[\w$]+' cannot be null",),
        1053: (r"Server shutdown in progress",),
        1062: (rf"Duplicate entry '(?P<value>.*)' for key '{_NAME}'",),
        1105: (
            r"Only constant XPATH queries are supported",
            r"XPATH syntax error: '(?P<value>.*)'",
            r"XPATH error: '(?P<value2>.*)'",
        ),
        1139: (r"Got error '(?P<value>.*)' from regexp",),
        1153: (r"Got a packet bigger than 'max_allowed_packet' bytes",),
        1158: (r"Got an error reading communication packets",),
        1159: (r"Got timeout reading communication packets",),
        1172: (r"Result consisted of more than one row",),
        1205: (r"Lock wait timeout exceeded; try restarting transaction",),
        1213: (r"Deadlock found when trying to get lock; try restarting transaction",),
        1231: (r"Variable '[\w$.]+' can't be set to the value of '(?P<value>.*)'",),
        1232: (r"Incorrect argument type to variable '[\w$.]+'",),
        1242: (r"Subquery returns more than 1 row",),
        1264: (rf"Out of range value for {_COLUMN}{_ROW}",),
        1265: (rf"Data truncated for {_COLUMN}{_ROW}",),
        1290: (r"The MySQL server is running with the [\w-]+ option so it cannot execute this statement",),
        1292: (
            r"Truncated incorrect [\w() ]{1,40} value: '(?P<value>.*)'",
            rf"Incorrect [\w() ]{{1,40}} value: '(?P<value2>.*)' for {_COLUMN}{_ROW}",
            r"Incorrect [\w() ]{1,40} value: '(?P<value3>.*)'",
        ),
        1298: (r"Unknown or incorrect time zone: '(?P<value>.*)'",),
        1317: (r"Query execution was interrupted",),
        1364: (r"Field '[\w$]+' doesn't have a default value",),
        1365: (r"Division by 0",),
        1366: (rf"Incorrect [\w() ]{{1,40}} value: '(?P<value>.*)' for {_COLUMN}{_ROW}",),
        1406: (rf"Data too long for {_COLUMN}{_ROW}",),
        1411: (r"Incorrect [\w() ]{1,40} value: '(?P<value>.*)' for function \w{1,40}",),
        1525: (r"Incorrect [\w() ]{1,40} value: '(?P<value>.*)'",),
        1690: (r"[A-Z ]{1,40} value is out of range in '(?P<value>.*)'",),
        1792: (r"Cannot execute statement in a READ ONLY transaction",),
        1927: (r"Connection was killed",),
        1969: (r"Query execution was interrupted \(max_statement_time exceeded\)",),
        3024: (r"Query execution was interrupted, maximum statement execution time exceeded",),
        3636: (r"Recursive query aborted after \d+ iterations\..*",),
    }.items()
}
_CLASSES = {
    "01": "warning", "02": "no data", "08": "connection exception", "0A": "feature not supported",
    "21": "cardinality violation", "22": "data exception", "23": "integrity constraint violation",
    "25": "invalid transaction state", "28": "invalid authorization", "40": "transaction rollback",
    "42": "syntax error or access rule violation", "44": "check option violation", "45": "raised by a routine",
    "70": "interrupted", "HY": "error", "XA": "distributed transaction",
}  # fmt: skip


def scrub(errno: int, sqlstate: str, message: str, *, opens: bool, own_text: bool = True) -> str:
    """The text of an ERR packet as a client may see it.

    `opens`: the statement runs code that its text does not show, so its errors may say anything under any number.
    `own_text`: the client's own statement may be quoted.
    """
    if not opens:
        if errno in _ABOUT_TEXT and own_text:
            return message
        for pattern in _WORDINGS.get(errno, ()):
            found = pattern.fullmatch(message)
            if found is not None:
                return _replaced(message, found)
    kind = _CLASSES.get(sqlstate[:2], "error")
    return f"{MASKED} {kind}: the text may quote masked data and is withheld"


def _replaced(message: str, found: re.Match[str]) -> str:
    spans = sorted(found.span(name) for name, text in found.groupdict().items() if text is not None)
    out, at = "", 0
    for start, end in spans:
        out += message[at:start] + MASKED
        at = end
    return out + message[at:]

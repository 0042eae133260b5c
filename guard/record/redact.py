"""Secrets inside statements are removed before anything is stored. `redact_sql` and `redact_params` do it.

Two strengths, because removing too much destroys evidence and removing too little stores a secret:

- *strong* words (PASSWORD in any form, connection strings, OPTIONS (...), USER MAPPING, dblink, private keys, ...)
  anywhere in the text, also inside its strings and comments: every literal, number and comment of the text goes;
- *weak* words (identifiers like `api_key`, `secret`, `token`): the same where the text can write; in a plain read only
  the literals that are compared with such a name, so that `WHERE service = 'billing'` stays to be seen.

Comments go with the literals because they can hold the same secret, and because a comment could hide one from a lexer
that nests differently. What a person can still type past this: a secret with no telling word near it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from guard.record.sqltokens import Kind, Token, scan

REDACTED = "'[redacted]'"
REDACTED_PARAM = "[redacted]"
# tokens; scanning more of a sensitive text would stall the traffic, so it is dropped as a whole. Not characters: a word
# and a long comment must not be enough to keep a statement's text off the record
_MOST = 100_000


def _word(word: str, rest: str = r"\b") -> re.Pattern[str]:
    """A whole word and what must follow. The literal comes first, so that the search is as fast as one for a substring;
    that nothing precedes it is looked at afterwards.
    """
    return re.compile(rf"{word}(?<!\w{word}){rest}")


# All of this is searched in the lower-cased text: a substring first (which clears an ordinary statement in
# microseconds), then, where one is given, the pattern that it must be part of.
_STRONG: Mapping[str, re.Pattern[str] | None] = {
    "passw": re.compile(r"passw(?:or)?d"),
    # a mistyped PASSWORD is one all the same
    "alter": re.compile(r"\balter\s+(?:role|user|group)\b"),
    "create": re.compile(r"\bcreate\s+(?:role|user|group)\b"),
    "passphrase": None,
    "pgpass": None,
    "pwd": _word("pwd", r"\s*="),
    "conninfo": None,
    "dblink": None,
    "mapping": _word("mapping"),
    "subscription": _word("subscription"),
    "identified": _word("identified"),
    "_encrypt": re.compile(r"(?:aes|des)_encrypt"),  # their second argument is a key
    "_decrypt": re.compile(r"(?:aes|des)_decrypt"),
    "authentication": re.compile(r"authentication_string|initial authentication"),
    "private": re.compile(r"private[_ -]?key"),
    "bearer": _word("bearer", r"\s"),
    "authorization": _word("authorization", r"\s*[:=]"),
    "connection": _word("connection", r"\s*(?:['$/=-]|[ube]&?')"),
    "options": _word("options", r"\s*[(/-]"),
    "://": re.compile(r"://[^\s/@'\"]{0,512}@"),
}
_WEAK: Mapping[str, re.Pattern[str] | None] = {
    "secret": None,
    "token": re.compile(r"token(?:\b|s?_)"),
    **dict.fromkeys(("api_key", "apikey", "access_key", "accesskey", "encryption_key", "signing_key", "client_key")),
}
_VALUES: Mapping[str, re.Pattern[str] | None] = {
    "passw": re.compile(r"passw(?:or)?d\s*="),
    "pwd": _word("pwd", r"\s*="),
    "pgpassword": None,
    "private key-----": None,
    "bearer": _word("bearer", r"\s+\S"),
    "://": re.compile(r"://[^\s/@:]{0,256}:[^\s@]{1,512}@"),
}
# A name (one word) that says that its value is secret.
_NAME = re.compile(
    r"passw(?:or)?d|passphrase|private_?key|secret|token\b|tokens?_"
    r"|(?:api|access|encryption|signing|client)_?key"
)
_WRITING = re.compile(
    r"\b(?:insert|update|merge|set|set_config|copy|values|call|alter|create|execute|do|prepare|comment|security)\b"
)
_LITERALS = frozenset({Kind.STRING, Kind.DOLLAR, Kind.COMMENT, Kind.NUMBER})
# behind one of these a "..." is a name for either server; anywhere else it may be MySQL's string
_NAMED = frozenset(
    {
        *(".", "user", "role", "group", "table", "mapping", "server", "for", "into", "from", "on", "column", "schema"),
        *("database", "function", "procedure", "to", "rename", "update", "join", "add", "drop", "alter", "exists"),
        "owner",
    }
)
_COMPARING = frozenset(
    ["like", "ilike", "in", "not", "similar", "to", "any", "all", "between", "is", "distinct", "from"]
)
_MYSQL_OWN = re.compile(r"[\"#`?]|_[A-Za-z0-9]+\s*'")
_PLAIN_VALUES = frozenset({"null", "default", "none"})


class _Plan(NamedTuple):
    """What to remove: character spans (sorted, disjoint) and parameter numbers (None: all)."""

    spans: Sequence[tuple[int, int]]
    parameters: frozenset[int] | None
    whole: bool = False


_NOTHING = _Plan((), frozenset())


def redact_sql(text: str) -> str:
    """The statement with its secrets replaced by `'[redacted]'`. Ordinary statements come back unchanged.

    A sensitive text of more than 100,000 tokens comes back as a note about its size. Never raises.
    """
    plan = _plan(text)
    if plan.whole:
        return f"[redacted: a statement of {len(text)} characters that carries secrets]"
    if not plan.spans:
        return text
    pieces, position = [], 0
    for start, end in plan.spans:
        pieces += [text[position:start], REDACTED]
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def redact_params(text: str, params: Sequence[str | None]) -> tuple[str | None, ...]:
    """The bind values that may be stored beside this statement: those of a sensitive one are `[redacted]`, NULL stays.

    A value that itself is a connection string with a password, or a private key, is always redacted.
    """
    if not params:
        return ()
    plan = _plan(text)
    hidden = plan.parameters
    return tuple(
        REDACTED_PARAM
        if value is not None and (hidden is None or number in hidden or _found(value.lower(), _VALUES))
        else value
        for number, value in enumerate(params, 1)
    )


def _found(lowered: str, clues: Mapping[str, re.Pattern[str] | None]) -> bool:
    for clue, pattern in clues.items():  # noqa: SIM110 - on the hot path, and any() takes half as long again
        if clue in lowered and (pattern is None or pattern.search(lowered)):
            return True
    return False


def _plan(text: str) -> _Plan:
    lowered = text.lower()
    strong = _found(lowered, _STRONG)
    if not strong and not _found(lowered, _WEAK):
        return _NOTHING
    everything = strong or _WRITING.search(lowered) is not None
    spans: set[tuple[int, int]] = set()
    parameters: set[int] = set()
    # neither the server nor its settings are known here: hide what any reading finds
    readings = [(False, False), (True, False)] if "\\" in text else [(False, False)]
    if _MYSQL_OWN.search(text) is not None:
        readings += [(backslash, True) for backslash, _ in readings]
    for backslash, mysql in readings:
        scanned = list(islice(scan(text, backslash=backslash, mysql=mysql), _MOST + 1))
        if len(scanned) > _MOST:
            return _Plan((), None, whole=True)
        tokens = [token for token in scanned if token.kind is not Kind.SPACE]
        if everything:
            spans.update((token.start, token.end) for token in tokens if _is_literal(text, token))
            spans.update(_doubles(text, tokens))
        spans.update(_beside_names(text, tokens, parameters, literals=not everything))
    return _Plan(_merged(spans), None if everything else frozenset(parameters))


def _doubles(text: str, tokens: list[Token]) -> Iterable[tuple[int, int]]:
    """MySQL's "strings", as far as they stand where a value may."""
    prepares = re.match(r"\s*(?:prepare|execute)\b", text, re.IGNORECASE) is not None  # FROM "a text"
    for index, token in enumerate(tokens):
        if token.kind is Kind.DOUBLE:
            before = text[tokens[index - 1].start : tokens[index - 1].end].lower() if index else ""
            after = text[tokens[index + 1].start : tokens[index + 1].end] if index + 1 < len(tokens) else ""
            if (before not in _NAMED or (prepares and before == "from")) and after != ".":
                yield token.start, token.end


def _is_literal(text: str, token: Token) -> bool:
    """An identifier whose quote is never closed swallows the rest of the text, whatever that is: it goes, too."""
    unclosed = token.kind is Kind.QUOTED and (text[token.end - 1] not in '"`' or token.end - token.start < 2)
    return token.kind in _LITERALS or unclosed


def _beside_names(text: str, tokens: list[Token], parameters: set[int], *, literals: bool) -> Iterable[tuple[int, int]]:
    """Spans of values assigned to or compared with a secret-looking name; their parameter numbers go to `parameters`.

    literals: look at quoted values, numbers and parameters too (False: they go anyway), not only at bare words.
    """
    tokens = [token for token in tokens if token.kind is not Kind.COMMENT]
    words = [text[token.start : token.end].lower() for token in tokens]
    secret = [
        token.kind in (Kind.WORD, Kind.QUOTED, Kind.DOUBLE) and _NAME.search(word) is not None
        for token, word in zip(tokens, words, strict=True)
    ]
    asked = 0  # MySQL's parameters have no numbers of their own
    for index, (token, word) in enumerate(zip(tokens, words, strict=True)):
        asked += word == "?" and token.kind is Kind.PARAMETER
        if token.kind in (Kind.STRING, Kind.DOUBLE, Kind.DOLLAR, Kind.NUMBER, Kind.PARAMETER):
            if not literals or not (_named_before(words, secret, tokens, index) or _named_after(words, secret, index)):
                continue
            if token.kind is Kind.PARAMETER:
                parameters.add(asked if word == "?" else int(word[1:]))
            else:
                yield token.start, token.end
        elif token.kind in (Kind.WORD, Kind.QUOTED) and word not in _PLAIN_VALUES and _bare_value(words, secret, index):
            yield token.start, token.end


def _named_before(words: list[str], secret: list[bool], tokens: list[Token], index: int) -> bool:
    """Is the nearest name before this literal, across operators, brackets and other literals, a secret-looking one?"""
    for earlier in range(index - 1, max(-1, index - 64), -1):
        kind = tokens[earlier].kind
        if kind in (Kind.WORD, Kind.QUOTED) and words[earlier] not in _COMPARING:
            return secret[earlier]
        if words[earlier] == ";":
            return False
    return False


def _named_after(words: list[str], secret: list[bool], index: int) -> bool:
    """`'value' = t.api_key`: an operator, then a name, perhaps qualified."""
    after = index + 1
    while after < len(words) and words[after] in ("=", "<", ">", "!"):
        after += 1
    if after == index + 1:
        return False
    while after + 2 < len(words) and words[after + 1] == ".":
        after += 2
    return after < len(words) and secret[after]


def _bare_value(words: list[str], secret: list[bool], index: int) -> bool:
    """`SET app.api_key = hunter2`, `... TO hunter2`, and the mistyped `PASSWORD hunter2`: values without quotes."""
    if index + 1 < len(words) and words[index + 1] in ("(", "."):
        return False  # a function call or a qualified name, not a value
    if index >= 2 and words[index - 1] in ("=", "to") and secret[index - 2]:
        return True
    return index >= 1 and words[index - 1] == "password" and words[0] in ("alter", "create") and not secret[index]


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged

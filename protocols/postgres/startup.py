"""Which startup parameters a client may send: an allow-list.

Any setting may be a startup parameter, and `options` carries a command line (`-crole=admin` needs no blank). What is
plainly harmless passes. Some others are judged as the SET that they stand for, once it is known who asks. All the rest
is refused before the server sees it: a role, libraries, encodings, and every name that is not known here. Replication
is refused whoever asks: it reads what is on disk, past masks, row security and judgement.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from protocols.contract import Analysis, Effect
from protocols.postgres.settings import canonical, set_effect, words

_CONNECTION = frozenset({"user", "database"})  # what names the connection itself
_JUDGED = words(
    """
    statement_timeout lock_timeout idle_in_transaction_session_timeout idle_session_timeout transaction_timeout
    default_transaction_read_only row_security search_path standard_conforming_strings
    """
)
_OWN = re.compile(r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)+")  # an application's: `app.tenant`
_NEVER = frozenset({Effect.SESSION_ROLE, Effect.PRIV_TRIGGERS, Effect.EXEC_LIBRARY})
_OFF = frozenset({"false", "off", "no", "0"})
MAX_VALUE = 1024  # characters
MAX_JUDGED = 32


@dataclass(frozen=True, slots=True)
class StartupCheck:
    """`accepted`: what may be sent upstream, `options` taken apart; `refused`: names, for the client's error.

    `judged`: what may be sent if the identity may do it, with the effect that SET would have.
    """

    accepted: dict[str, str]
    refused: list[str]
    judged: dict[str, tuple[str, Effect]]

    @property
    def settings(self) -> dict[str, str]:
        """What is sent upstream once all of `judged` is permitted."""
        return self.accepted | {name: value for name, (value, _) in self.judged.items()}

    def asks(self) -> Iterator[tuple[Analysis, str]]:
        """What is to be permitted: (the analysis of a SET, its text)."""
        for name, (value, effect) in self.judged.items():
            yield Analysis("set", frozenset({effect})), f"SET {name} = '{value.replace("'", "''")}'"


def check(params: Mapping[str, str]) -> StartupCheck:
    """Sorts a client's startup parameters. Never raises."""
    accepted: dict[str, str] = {}
    refused: list[str] = []
    judged: dict[str, tuple[str, Effect]] = {}
    for name, value in params.items():
        if name in _CONNECTION:
            accepted[name] = value
        elif name == "options":
            for setting, text in _options(value):
                if text is not None and _harmless(setting, text):
                    accepted[canonical(setting)] = text
                elif text is not None and _judged(setting, text):
                    judged[canonical(setting)] = (text, set_effect(setting, text))
                else:
                    refused.append(f"options: {setting}")
        elif name == "replication" and value.lower() in _OFF:
            continue
        elif _harmless(name, value):
            accepted[name] = value
        elif _judged(name, value):
            judged[canonical(name)] = (value, set_effect(name, value))
        else:
            refused.append(name)
    doubled = {canonical(name) for name in accepted} & judged.keys()  # which of the two counts is the server's choice
    refused += sorted(doubled) if len(judged) <= MAX_JUDGED else list(judged)
    return StartupCheck(accepted, refused, judged)


def _judged(name: str, value: str) -> bool:
    setting = canonical(name)
    known = setting in _JUDGED or (_OWN.fullmatch(setting) is not None and not setting.startswith("_pq_."))
    if not known or len(value) > MAX_VALUE or "\0" in value:
        return False
    return set_effect(setting, value) not in _NEVER


def _harmless(name: str, value: str) -> bool:
    if len(value) > MAX_VALUE or "\0" in value or not name.isascii():
        return False
    if canonical(name) == "client_encoding" and value.lower() in ("auto",):
        return False
    return set_effect(name, value) is Effect.SESSION_SET


def _options(text: str) -> list[tuple[str, str | None]]:
    """The settings of an `options` string: [(name, value)], value None for anything that is no setting."""
    words = _split(text)
    found: list[tuple[str, str | None]] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "-c":
            word = words[index] if index < len(words) else ""
            index += 1
        elif word.startswith("-c") or (word.startswith("--") and len(word) > 2):
            word = word[2:]
        else:
            found.append((word[:40] or "(empty)", None))
            continue
        name, separator, value = word.partition("=")
        name = name.replace("-", "_")
        found.append((name[:63] or "(empty)", value if separator else None))
    return found


def _split(text: str) -> list[str]:
    """Splits as the server does (pg_split_opts): blanks separate, a backslash takes the next character as it is."""
    words: list[str] = []
    current: list[str] = []
    started = escaped = False
    for character in text:
        if escaped:
            current.append(character)
            escaped = False
        elif character == "\\":
            escaped = started = True
        elif character in " \t\n\r\f\v":
            if started:
                words.append("".join(current))
                current, started = [], False
        else:
            current.append(character)
            started = True
    if started:
        words.append("".join(current))
    return words

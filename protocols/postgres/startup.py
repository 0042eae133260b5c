"""Which startup parameters a client may send: an allow-list.

Any setting may be a startup parameter, and `options` carries a command line (`-crole=admin` needs no blank): what is
not plainly harmless is refused before the server sees it.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocols.contract import Effect
from protocols.postgres.settings import canonical, set_effect

# what names the connection itself. `replication` is granted elsewhere, never by this list.
_CONNECTION = frozenset({"user", "database"})
MAX_VALUE = 1024  # characters


@dataclass(frozen=True, slots=True)
class StartupCheck:
    """`accepted`: what may be sent upstream, `options` taken apart; `refused`: names, for the client's error."""

    accepted: dict[str, str]
    refused: list[str]


def check(params: Mapping[str, str]) -> StartupCheck:
    """Sorts a client's startup parameters. Never raises."""
    accepted: dict[str, str] = {}
    refused: list[str] = []
    for name, value in params.items():
        if name in _CONNECTION:
            accepted[name] = value
        elif name == "options":
            for setting, text in _options(value):
                if text is not None and _harmless(setting, text):
                    accepted[canonical(setting)] = text
                else:
                    refused.append(f"options: {setting}")
        elif name == "replication" and value.lower() in ("false", "off", "no", "0"):
            continue
        elif _harmless(name, value):
            accepted[name] = value
        else:
            refused.append(name)
    return StartupCheck(accepted, refused)


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

"""Which control sequences of a recorded program may reach the terminal of who replays it.

Source: ECMA-48, sections 5.4 (CSI) and 5.6 (control strings); xterm's control sequences. An allow-list: moving,
colouring, clearing, scrolling, the alternate screen. Left out: everything that makes a terminal answer (reports), act
(title, clipboard, links, printing, keys) or stay odd (mouse modes).
"""

from __future__ import annotations

import enum
import re

MAX_SEQUENCE = 256  # characters of one control sequence; longer ones are left out
_CONTROLS = frozenset("\a\b\t\n\v\f\r\x0e\x0f")
_FINALS = frozenset("@ABCDEFGHIJKLMPSTXZ`adefgmrsu")
_PRIVATE_MODES = frozenset({"1", "3", "5", "6", "7", "12", "25", "47", "1047", "1048", "1049"})
_PARAMETERS = re.compile(r"[0-9;:]*\Z")
_ESCAPES = frozenset("78DEHMc=>")  # cursor, index, tab stop, reset, keypad
_CHARSETS = frozenset("()*+")


class _In(enum.Enum):
    TEXT = enum.auto()
    ESCAPE = enum.auto()
    CHARSET = enum.auto()
    SKIP_ONE = enum.auto()
    CSI = enum.auto()
    STRING = enum.auto()  # OSC, DCS, APC, PM, SOS: never shown
    STRING_ESCAPE = enum.auto()


class Safe:
    """Text in any pieces -> the same text without the control sequences that are not on the list."""

    def __init__(self) -> None:
        self._state = _In.TEXT
        self._held = ""

    def feed(self, text: str) -> str:
        return "".join(map(self._character, text))

    def _character(self, c: str) -> str:
        match self._state:
            case _In.TEXT:
                return self._text(c)
            case _In.ESCAPE:
                return self._escape(c)
            case _In.CHARSET:
                return self._done(f"\x1b{self._held}{c}" if c in "AB012" else "")
            case _In.SKIP_ONE:
                return self._done("")
            case _In.CSI:
                return self._csi(c)
            case _In.STRING:
                if c in "\a\x18\x1a\x9c":
                    return self._done("")
                if c == "\x1b":
                    self._state = _In.STRING_ESCAPE
                return ""
            case _In.STRING_ESCAPE:
                # `ESC \` ends a string; any other escape ends it too, and is one itself
                return self._done("") if c == "\\" else self._escape(c)

    def _text(self, c: str) -> str:
        if c == "\x1b":
            self._state, self._held = _In.ESCAPE, ""
            return ""
        # C1 controls are the eight-bit forms of the same sequences
        if c == "\x9b":
            self._state, self._held = _In.CSI, ""
            return ""
        if c in "\x90\x98\x9d\x9e\x9f":
            self._state = _In.STRING
            return ""
        if c < " " or "\x7f" <= c <= "\x9f":
            return c if c in _CONTROLS else ""
        return c

    def _escape(self, c: str) -> str:
        self._held = ""
        if c == "[":
            self._state = _In.CSI
        elif c in "]PX^_":
            self._state = _In.STRING
        elif c in _CHARSETS:
            self._state, self._held = _In.CHARSET, c
        elif " " <= c <= "/":
            self._state = _In.SKIP_ONE
        elif c == "\x1b":
            self._state = _In.ESCAPE
        else:
            return self._done(f"\x1b{c}" if c in _ESCAPES else "")
        return ""

    def _csi(self, c: str) -> str:
        if c == "\x1b":
            self._state = _In.ESCAPE
            return ""
        if c < " " or c > "~":
            # cancelled, or not ASCII: no terminal agrees with another on what follows
            return self._done("")
        if "@" <= c <= "~":
            return self._done(self._sequence(self._held, c))
        if len(self._held) < MAX_SEQUENCE:
            self._held += c
        return ""

    @staticmethod
    def _sequence(parameters: str, final: str) -> str:
        if len(parameters) >= MAX_SEQUENCE:
            return ""
        if parameters.startswith("?") and final in "hl":
            modes = parameters[1:].split(";")
            return f"\x1b[{parameters}{final}" if all(mode in _PRIVATE_MODES for mode in modes) else ""
        return f"\x1b[{parameters}{final}" if final in _FINALS and _PARAMETERS.match(parameters) else ""

    def _done(self, shown: str) -> str:
        self._state, self._held = _In.TEXT, ""
        return shown

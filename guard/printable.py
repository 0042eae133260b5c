"""Text of strangers on its way to a terminal: what could write to the terminal becomes a visible escape.

Clients and servers choose names and messages that people read in logs and answers. They may hold sequences that move
the cursor, change the title or hide what was there, and characters that reverse the reading order.
"""

from __future__ import annotations

_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def clean(value: object, *, lines: bool = False) -> str:
    """Text for a terminal: what is not printable becomes a visible escape. `lines` keeps line ends and tabs."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or (lines and char in "\n\t") else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    return _SHORT.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}")

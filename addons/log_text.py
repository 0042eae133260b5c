"""The log's text: nobody but the gateway begins a line of it, and nothing in it writes to the terminal that shows it.

Names, addresses and errors in messages come from clients, servers and issuers. What is not printable becomes a visible
escape, and what continues a message on a further line stands back from the margin.
"""

from __future__ import annotations

import logging
from typing import Any, cast

from mitmproxy import log

from guard.printable import clean

_FURTHER = "\n    "


OURS = {"lines": True}
"""`extra` of a message whose lines are the gateway's own."""


class PlainRecord(logging.LogRecord):
    """A record of any logger of this process."""

    lines = False
    _traceback: str | None = None

    def getMessage(self) -> str:
        text = clean(super().getMessage(), lines=True)
        return text if self.lines else text.replace("\n", _FURTHER)

    @property
    def exc_text(self) -> str | None:
        """What a formatter has made of the exception, which quotes what it is about."""
        return self._traceback

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self._traceback = None if text is None else clean(text, lines=True)


def install() -> None:
    """For the whole process, mitmproxy's own lines included."""
    logging.setLogRecordFactory(PlainRecord)
    cast(Any, log.MitmFormatter).formatException = _exception  # it keeps no text in the record


def _exception(self: logging.Formatter, ei: Any) -> str:
    return clean(logging.Formatter.formatException(self, ei), lines=True)

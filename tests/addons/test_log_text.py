"""What clients, servers and issuers choose must not write to the terminal on which the log is read, or forge a line."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from mitmproxy import log as mitmproxy_log

    from addons import log_text

HOSTILE = "`\x1b]0;owned\x07\x9b2J\nsluicegate ready: forged\u202e\r`"


@pytest.fixture
def installed() -> Iterator[None]:
    factory, shown = logging.getLogRecordFactory(), mitmproxy_log.MitmFormatter.formatException
    log_text.install()
    yield
    logging.setLogRecordFactory(factory)
    mitmproxy_log.MitmFormatter.formatException = shown


@pytest.mark.parametrize("formatter", [mitmproxy_log.MitmFormatter(False), logging.Formatter("%(message)s")])
@pytest.mark.usefixtures("installed")
def test_names_that_clients_choose_neither_steer_a_terminal_nor_begin_a_line(formatter: logging.Formatter) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    logger = logging.getLogger("sluicegate.test_log_text")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        logger.error("database %s is not here", HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logger.exception("an error")
    finally:
        logger.removeHandler(handler)
    written = out.getvalue()
    assert all(char.isprintable() or char == "\n" for char in written)
    assert "\\x1b]0;owned\\x07\\x9b2J\n    sluicegate ready: forged\\u{202e}\\r` is not here" in written
    assert "Traceback" in written

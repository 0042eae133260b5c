"""Hooks of mitmproxy's that refuse when they fail: mitmproxy logs an exception in an addon, and goes on."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("sluicegate")


def closed(refuse: Callable[[Any], None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Wraps a hook: when it raises, `refuse` is applied to what it was given, and the exception is logged."""

    def wrap(hook: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(hook)
        def guarded(self: Any, data: Any) -> None:
            try:
                hook(self, data)
            except Exception:
                log.exception("hook %s failed; refused", hook.__name__)
                refuse(data)

        return guarded

    return wrap

"""What `sluicegate status` says of each issuer, in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from scripts.terminal import clean, duration


def told(value: Mapping[str, Any], now: float | None = None) -> dict[str, Any]:
    """The status with its issuers as issuer -> sentence, for people."""
    at = time.time() if now is None else now
    return {**value, "issuers": {row["issuer"]: _sentence(row, at) for row in value.get("issuers") or ()}}


def _sentence(row: Mapping[str, Any], now: float) -> str:
    read = "keys never read" if row["read_at"] is None else f"keys read {duration(max(0.0, now - row['read_at']))} ago"
    if not row["error"]:
        before = ""
        if row["last_error"]:
            before = f" (failed {duration(max(0.0, now - row['failed_at']))} ago: {clean(row['last_error'])})"
        return read + before
    left = -1.0 if row["usable_until"] is None else row["usable_until"] - now
    good = f"good for another {duration(left)}" if left > 0 else "all its tokens are refused"
    return f"{read}, {good}; FAILING: {clean(row['error'])}"

"""`sluicegate status` in words: an issuer that fails is seen before its tokens are refused."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.issuer_health import told

NOW = 1_800_000_000.0
GOOD = {"issuer": "https://idp", "keys_age": 12.0, "read_at": NOW - 12, "usable_until": NOW + 3588}
GOOD |= {"error": None, "last_error": None, "failed_at": None}
WRONG = {"error": "idp: refused", "last_error": "idp: refused", "failed_at": NOW - 5}
NEVER = {"keys_age": None, "read_at": None, "usable_until": None}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "keys read 12.0 s ago"),
        (
            {"last_error": "idp: refused", "failed_at": NOW - 90},
            "keys read 12.0 s ago (failed 1 m 30 s ago: idp: refused)",
        ),
        (WRONG, "keys read 12.0 s ago, good for another 59 m 48 s; FAILING: idp: refused"),
        (
            {**WRONG, "read_at": NOW - 3700, "usable_until": NOW - 100},
            "keys read 1 h 01 m ago, all its tokens are refused; FAILING: idp: refused",
        ),
        ({**WRONG, **NEVER}, "keys never read, all its tokens are refused; FAILING: idp: refused"),
        ({**NEVER}, "keys never read"),
        ({**WRONG, "error": "a\x1b[2Jb"}, "keys read 12.0 s ago, good for another 59 m 48 s; FAILING: a\\x1b[2Jb"),
    ],
)
def test_of_each_issuer_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    shown = told({"gateway": "g", "issuers": [{**GOOD, **changes}]}, NOW)
    assert shown == {"gateway": "g", "issuers": {"https://idp": sentence}}

"""Masking one whole value that has a name: a JSON member, a form field, a CSV cell."""

from __future__ import annotations

import functools
import re

from guard.detect import Finding
from guard.mask.bodies.rules import Contents
from protocols.contract import ColumnMask

# a name after which a detector may take a value that it would leave alone elsewhere
TELLING_WORDS = (
    rb"(?i:passw|passphrase|pwd|secret|token|key|ssn|social|bsn|burger|sofi|pesel|sin|aadh|uidai|cpf|person|phone"
    rb"|mobile|msisdn|tel)"
)
_TELLING = re.compile(TELLING_WORDS)
_USUAL = 128  # bytes of a name that is worth remembering: longer ones come from whoever wants to fill the memory


def telling(name: bytes) -> bool:
    """Whether a field's name is one of these."""
    return _usual(name) if len(name) <= _USUAL else _TELLING.search(name) is not None


@functools.lru_cache(maxsize=4096)
def _usual(name: bytes) -> bool:
    return _TELLING.search(name) is not None


def spans_in(contents: Contents, name: bytes, value: bytes) -> list[tuple[int, int, ColumnMask]]:
    """What is to be masked in a value, given its name. A value that its name alone gives away is masked whole."""
    findings = contents.scanner.find(value)
    if name and telling(name):
        front = name[-128:] + b'": "'
        beside = contents.scanner.find(front + value + b'"')
        alone = {(f.start, f.detector) for f in findings}
        findings += [
            Finding(f.kind, 0, len(value), f.detector)
            for f in beside
            if f.start == len(front) and (0, f.detector) not in alone
        ]
    return contents.wanted(findings)

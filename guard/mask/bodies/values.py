"""Masking one whole value that has a name: a JSON member, a form field, a CSV cell."""

from __future__ import annotations

import re

from guard.detect import Finding
from guard.mask.bodies.rules import Contents
from protocols.contract import ColumnMask

# a name after which a detector may take a value that it would leave alone elsewhere
TELLING = re.compile(
    rb"(?i)passw|passphrase|pwd|secret|token|[_-]?key|ssn|social|bsn|burger|sofi|pesel|sin|aadh|uidai|cpf|person|phone"
    rb"|mobile|msisdn|tel"
)


def spans_in(contents: Contents, name: bytes, value: bytes) -> list[tuple[int, int, ColumnMask]]:
    """What is to be masked in a value, given its name. A value that its name alone gives away is masked whole."""
    findings = contents.scanner.find(value)
    if name and TELLING.search(name):
        front = name[-128:] + b'": "'
        beside = contents.scanner.find(front + value + b'"')
        alone = {(f.start, f.detector) for f in findings}
        findings += [
            Finding(f.kind, 0, len(value), f.detector)
            for f in beside
            if f.start == len(front) and (0, f.detector) not in alone
        ]
    return contents.wanted(findings)

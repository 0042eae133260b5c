"""Credentials and personal data in bytes: where they are, and which detector says so.

`Scanner.find` reads a whole text, `Stream` a text that comes in pieces. A check digit is checked wherever there is one.
`expose.exposed` looks inside what is encoded (percent, base64, hexadecimal, JSON escapes, gzip).

It must never: log or keep any part of what it reads, or pass a text that it could not scan (`DetectError`).
"""

from guard.detect.finding import Finding, Kind
from guard.detect.hyper import DetectError
from guard.detect.known import Known
from guard.detect.scanner import KINDS, NAMES, OWN, Scanner
from guard.detect.stream import Piece, Stream

__all__ = ["KINDS", "NAMES", "OWN", "DetectError", "Finding", "Kind", "Known", "Piece", "Scanner", "Stream"]

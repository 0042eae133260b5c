"""Bodies masked as they pass: JSON, forms, text, CSV, HTML, multipart, in any content coding that can be opened.

`body_masker(content_type, content_encoding, rules)` answers with a masker: `feed(bytes) -> bytes`, `end() -> bytes`.

It must never: give out a part of a body that it could not read as its receiver will (`BodyError`; `Unmaskable` where
that is known at once), hold more of a body than `Limits` says, or change a byte that no rule concerns.
"""

from guard.mask.bodies.body import BodyMasker, Unchanged
from guard.mask.bodies.choose import body_masker
from guard.mask.bodies.paths import PathError
from guard.mask.bodies.rules import BodyError, BodyRules, ContentRule, FieldRule, Limits, Unmaskable, mask_of

__all__ = [
    "BodyError",
    "BodyMasker",
    "BodyRules",
    "ContentRule",
    "FieldRule",
    "Limits",
    "PathError",
    "Unchanged",
    "Unmaskable",
    "body_masker",
    "mask_of",
]

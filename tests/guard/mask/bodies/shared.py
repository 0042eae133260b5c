"""Masks and a way to feed a masker in pieces."""

from __future__ import annotations

from guard.mask.bodies import BodyRules, ContentRule, FieldRule, Limits, body_masker, mask_of
from protocols.contract import ColumnMask, MaskRule

KEY = b"k" * 32


def mask(strategy: str = "redact", **options: object) -> ColumnMask:
    return mask_of(MaskRule("r", (), (), strategy, options), KEY)


REDACT = mask()
NULL = mask("null")
TOKEN = mask("tokenise")


def fields(*paths: str, by: ColumnMask = REDACT) -> BodyRules:
    return BodyRules(tuple(FieldRule(path, by) for path in paths))


def contents(*detectors: str, by: ColumnMask = REDACT) -> BodyRules:
    return BodyRules(contents=(ContentRule(detectors or ("personal", "credential"), by),))


def both(*paths: str) -> BodyRules:
    return BodyRules(fields(*paths).fields, contents().contents, "pass")


def masked(
    content_type: str, body: bytes, rules: BodyRules, step: int = 0, coding: str = "", limits: Limits | None = None
) -> bytes:
    masker = body_masker(content_type, coding, rules, limits or Limits())
    step = step or max(1, len(body))
    out = [masker.feed(body[at : at + step]) for at in range(0, len(body), step)]
    return b"".join([*out, masker.end()])


def any_step(content_type: str, body: bytes, rules: BodyRules) -> bytes:
    """The masked body, which is the same whatever the size of the pieces."""
    whole = masked(content_type, body, rules)
    for step in (1, 2, 3, 5, 17, 100):
        assert masked(content_type, body, rules, step) == whole, step
    return whole

"""What is masked in a body, and how: fields by path or name, and contents by detector."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from guard.detect import KINDS, Finding, Scanner
from guard.mask import STRATEGIES, MaskRuleError, check_rule
from guard.mask import strategies as making
from guard.mask.masker import ColumnMask as RuleMask
from protocols.contract import ColumnMask, MaskRule

WITHHELD = b"[withheld]"  # in a text, what has no masked form becomes this


class BodyError(Exception):
    """A body that cannot be masked after all: what was not given out yet must not be. The text has nothing of it."""


class Unmaskable(BodyError):
    """A body that can be told at once to be beyond masking: its type, its coding. The caller withholds it."""


@dataclass(frozen=True, slots=True)
class FieldRule:
    """A field: `a.b`, `a[].b`, `*.b`, `**.b` (any depth), with `*` and `?` inside names; case does not count.

    An element of an array has the path of its array, so `a.b` and `a[].b` mean the same. In a form, a CSV file or a
    part of a multipart body the field's name is the whole path.
    """

    path: str
    mask: ColumnMask


@dataclass(frozen=True, slots=True)
class ContentRule:
    """Contents: what these detectors (`email`, ...) or all of a kind (`credential`, `personal`) find."""

    detectors: tuple[str, ...]
    mask: ColumnMask


@dataclass(frozen=True, slots=True)
class BodyRules:
    """All that applies to one body. Of several rules on one value the one with the stricter strategy decides.

    `fields_elsewhere`: what becomes of a body that has no fields to go by (text, HTML) while there are rules on
    fields: an API can send its JSON as `text/plain`, and its clients will not mind.
    """

    fields: tuple[FieldRule, ...] = ()
    contents: tuple[ContentRule, ...] = ()
    fields_elsewhere: Literal["withhold", "pass"] = "withhold"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one body. Exceeding one is a `BodyError`."""

    value: int = 4 * 1024 * 1024  # bytes of one string, number, cell or form value, held in memory
    depth: int = 256  # containers within containers
    columns: int = 4096
    parts: int = 1000  # of a multipart body
    headers: int = 16_384  # bytes before a part
    ratio: int = 200  # decoded bytes to coded ones, above `grace`
    grace: int = 4 * 1024 * 1024
    decoded: int = 8 * 1024**3  # decoded bytes in all


DEFAULT = Limits()


def mask_of(rule: MaskRule, key: bytes, domain: str = "body") -> ColumnMask:
    """The mask of a rule for values that are no columns. `domain`: equal values are masked alike within it only.

    Raises MaskRuleError.
    """
    if problems := check_rule(rule):
        raise MaskRuleError(f"mask rule `{rule.rule}`: {'; '.join(problems)}")
    return RuleMask(
        rule.rule,
        rule.strategy,
        withhold=rule.strategy == "null",
        constant=rule.strategy in ("null", "redact"),
        _transform=making.build(rule, key, domain),
    )


def strictest(masks: Iterable[ColumnMask]) -> ColumnMask | None:
    """Of several masks on one value the strictest; of two alike the earlier."""
    return min(masks, key=_rank, default=None)


def _rank(mask: ColumnMask) -> int:
    return STRATEGIES.index(mask.strategy) if mask.strategy in STRATEGIES else 0


@functools.lru_cache(maxsize=64)
def _scanner(names: frozenset[str]) -> Scanner:
    return Scanner(names)  # compiling takes some 50 ms


@dataclass(frozen=True, slots=True)
class Contents:
    """The content rules with a scanner that has the detectors they name, and no others."""

    scanner: Scanner
    _masks: dict[str, ColumnMask] = field(repr=False)

    @classmethod
    def of(cls, rules: Sequence[ContentRule], scanner: Scanner | None = None) -> Contents | None:
        """None where there are none. Raises DetectError for a detector that does not exist.

        `scanner`: one that knows the gateway's own secrets, when `gateway-secret` is to be masked; it then finds more
        than the rules name, which is left alone.
        """
        if not rules:
            return None
        wanted = frozenset(name for rule in rules for name in rule.detectors)
        chosen = scanner or _scanner(wanted)
        masks: dict[str, ColumnMask] = {}
        for name, kind in KINDS.items():
            found = strictest(rule.mask for rule in rules if name in rule.detectors or kind in rule.detectors)
            if found is not None:
                masks[name] = found
        return cls(chosen, masks)

    def wanted(self, findings: Iterable[Finding]) -> list[tuple[int, int, ColumnMask]]:
        """Spans to mask, in order and apart: findings that overlap are one, masked as strictly as any of them."""
        spans: list[tuple[int, int, ColumnMask]] = []
        for finding in sorted(findings, key=lambda f: (f.start, -f.end)):
            mask = self._masks.get(finding.detector)
            if mask is None:
                continue
            if spans and finding.start < spans[-1][1]:
                start, end, other = spans[-1]
                chosen = strictest((other, mask))
                assert chosen is not None
                spans[-1] = (start, max(end, finding.end), chosen)
            else:
                spans.append((finding.start, finding.end, mask))
        return spans


def masked_text(mask: ColumnMask, value: bytes) -> bytes:
    """The masked form of bytes that are text; `[withheld]` where there is none."""
    masked = mask.apply(value.decode("utf-8", "surrogateescape"))
    return WITHHELD if masked is None else masked.encode("utf-8", "replace")


def masked_spans(data: bytes, spans: Sequence[tuple[int, int, ColumnMask]]) -> bytes:
    """The text with these spans (in order, apart) masked."""
    pieces: list[bytes] = []
    at = 0
    for start, end, mask in spans:
        pieces += (data[at:start], masked_text(mask, data[start:end]))
        at = end
    pieces.append(data[at:])
    return b"".join(pieces)

"""`record`: the journal, and how long what is in it stays."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from guard.config.schema.types import Model, Number, Whole

Days = Annotated[float, Strict(), Field(ge=1, le=36500)]


class RetentionConfig(Model):
    """How long records stay. Without a rule here nothing ever goes by itself. Ages are days, counted from the newest
    record of a segment; what is under a hold stays, whatever a rule says."""

    content_days: Days | None = Field(
        default=None,
        description="what clients sent and saw goes (bytes of answers, COPY input, terminals, messages, bodies); who, "
        "what, when, decisions, counts and outcomes stay",
    )
    commands_days: Days | None = Field(
        default=None,
        description="what identities did goes (sessions, commands, answers, approvals, alerts, refusals); what the "
        "gateway and its administrators did stays",
    )
    segments_days: Days | None = Field(
        default=None, description="everything goes: a signed tombstone stays in place of a whole segment"
    )
    max_bytes: Annotated[Whole, Field(ge=1 << 20)] | None = Field(
        default=None,
        description="largest size of the journal on the disk; beyond it the oldest segments go, none younger than "
        "`keep_days`",
    )
    keep_days: Days = Field(
        default=7.0, description="nothing younger ever goes, by no rule and on nobody's word: no flood, no erasure"
    )
    warn_percent: Annotated[Number, Field(ge=1, le=100)] = Field(
        default=90.0, description="alert when the disk, or `max_bytes`, is so full"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        given = [
            (name, days)
            for name in ("content_days", "commands_days", "segments_days")
            if (days := getattr(self, name)) is not None
        ]
        for (one, fewer), (other, more) in itertools.pairwise(given):
            if fewer > more:
                raise ValueError(f"`{one}` is longer than `{other}`, which takes the same away, and more")
        for name, days in given:
            if days < self.keep_days:
                raise ValueError(f"`{name}` is shorter than `keep_days` ({self.keep_days:g}): make that shorter, too")
        return self


class RecordConfig(Model):
    """The journal."""

    max_response_bytes: Annotated[Whole, Field(ge=0, le=1 << 30)] = Field(
        default=65536, description="how much of one response is kept, as the client saw it"
    )
    segment_bytes: Annotated[Whole, Field(ge=65536, le=1 << 34)] = Field(
        default=67108864, description="size at which a new journal segment begins"
    )
    segment_seconds: Annotated[Number, Field(ge=60, le=31536000)] = Field(
        default=86400, description="age at which a new one begins; retention takes from finished segments only"
    )
    durability: Literal["write", "strict"] = Field(
        default="write",
        description="`write`: survives a killed gateway; `strict`: also a killed machine (fsync before forwarding)",
    )
    checkpoint_every: Annotated[Whole, Field(ge=1, le=1000000)] = Field(
        default=1000, description="signed checkpoint after so many records"
    )
    checkpoint_seconds: Annotated[Number, Field(gt=0, le=3600)] = Field(
        default=10, description="signed checkpoint at least so often while there are new records"
    )
    retention: RetentionConfig = Field(default=RetentionConfig(), description="how long records stay")

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        most = self.retention.max_bytes
        if most is not None and most < 2 * self.segment_bytes:
            raise ValueError("`retention.max_bytes` must have room for two segments: see `segment_bytes`")
        return self

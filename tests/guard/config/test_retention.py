"""The `record.retention` section: rules that contradict one another are refused, and nothing goes by default."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from guard.config.schema import RecordConfig, RetentionConfig
from guard.record.retention.rules import DAY, RetentionRules, stays

NOW = 2_000_000_000 * 10**9


def rules(**keys: Any) -> RetentionRules:
    return RetentionRules.of(RetentionConfig(**keys))


def test_by_default_nothing_ever_goes() -> None:
    assert RetentionRules.of(RecordConfig().retention) == RetentionRules()
    assert not RetentionRules().any
    assert RetentionRules().by_age(NOW) == []


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"content_days": 90, "commands_days": 30}, "`content_days` is longer than `commands_days`"),
        ({"content_days": 90, "segments_days": 30}, "`content_days` is longer than `segments_days`"),
        ({"commands_days": 90, "segments_days": 30}, "`commands_days` is longer than `segments_days`"),
        ({"content_days": 3}, "shorter than `keep_days`"),
        ({"content_days": 0}, "greater than or equal"),
        ({"content_days": "30"}, "valid number"),
        ({"max_bytes": 1000}, "greater than or equal"),
        ({"warn_percent": 101}, "less than or equal"),
        ({"keep_days": 0}, "greater than or equal"),
        ({"kept_days": 1}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        RetentionConfig(**keys)


def test_rules_are_asked_for_the_strictest_first_and_travel_as_text() -> None:
    made = rules(content_days=30, commands_days=90.5, segments_days=365, max_bytes=1 << 30)
    assert made.any
    assert [(level, rule) for level, rule, _ in made.by_age(NOW)] == [
        ("drop", "segments_days: 365"),
        ("strip", "commands_days: 90.5"),
        ("thin", "content_days: 30"),
    ]
    assert RetentionRules.decode(made.encode()) == made
    assert rules(max_bytes=1 << 20).any


def test_only_what_the_rules_say_is_what_they_say() -> None:
    made = rules(content_days=30, max_bytes=1 << 20)
    old = NOW - 30 * DAY
    assert made.say("thin", "content_days: 30", old, NOW)
    assert not made.say("thin", "content_days: 30", old + 1, NOW)
    assert not made.say("thin", "content_days: 31", old, NOW)
    assert not made.say("strip", "content_days: 30", old, NOW)
    assert not made.say("erase", "erasure", 0, NOW)
    assert made.say("drop", "max_bytes: 1048576", NOW - 7 * DAY, NOW)
    assert not made.say("drop", "max_bytes: 1048576", NOW - 6 * DAY, NOW)
    assert not rules(content_days=30).say("drop", "max_bytes: None", 0, NOW)


@pytest.mark.parametrize("kind", ["admin.act", "journal.opened", "checkpoint", "containment", "retention.hold"])
def test_what_the_gateway_and_its_administrators_did_outlives_stripping(kind: str) -> None:
    assert stays(kind)


@pytest.mark.parametrize("kind", ["command", "response", "session.start", "alert", "approval.voted", "containments"])
def test_what_identities_did_does_not(kind: str) -> None:
    assert not stays(kind)

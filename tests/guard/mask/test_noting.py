"""What was masked, by name: each once, bounded, with the rule that says so."""

from __future__ import annotations

from guard.mask.bodies import BodyRules, FieldRule, body_masker, mask_of
from guard.mask.noting import MaskedNames, NotedMask
from protocols.contract import MaskRule


def _masked(body: bytes, path: str, strategy: str = "redact") -> tuple[bytes, list[dict[str, str]]]:
    noted = MaskedNames()
    rule = MaskRule("b/people", (), (), strategy, {}, "withhold", (path,), (), ())
    mask = NotedMask(mask_of(rule, bytes(32)), path, noted)
    masker = body_masker("application/json", "", BodyRules((FieldRule(path, mask),)))
    return masker.feed(body) + masker.end(), noted.columns()


def test_a_field_is_named_once_however_often_it_is_masked() -> None:
    shown, names = _masked(b'[{"mail": "a"}, {"mail": "b"}, {"x": 1}]', "mail")
    assert b'"a"' not in shown
    assert names == [{"name": "mail", "masked": "b/people"}]


def test_what_has_no_masked_form_but_null_is_named_too() -> None:
    for value in (b"true", b'{"at": "home"}'):
        shown, names = _masked(b'{"mail": ' + value + b"}", "mail")
        assert (shown, len(names)) == (b'{"mail": null}', 1)


def test_what_is_not_there_and_what_is_only_watched_is_not_named() -> None:
    assert _masked(b'{"x": 1}', "mail")[1] == []
    assert _masked(b'{"mail": "a"}', "mail", "watch") == (b'{"mail": "a"}', [])


def test_names_are_bounded() -> None:
    names = MaskedNames()
    for number in range(1000):
        names.add(f"{number}" + "x" * 1000, "r")
    assert len(names.columns()) == 201
    assert names.columns()[-1] == {"name": "and others", "masked": "r"}
    assert max(len(one["name"]) for one in names.columns()) == 300

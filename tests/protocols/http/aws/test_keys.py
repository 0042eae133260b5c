"""Keys out of secrets: every part checked, nothing shown."""

from __future__ import annotations

import json

import pytest

from protocols.http.aws.keys import BadKeys, Keys, read_document

WHOLE = {"Version": 1, "AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "hidden/secret+1", "SessionToken": "hidden//=="}


def test_a_document_as_the_command_line_prints_it() -> None:
    found = read_document(json.dumps(WHOLE | {"Expiration": "2026-01-31T12:00:00Z"}))
    assert found == Keys("ASIAEXAMPLE", "hidden/secret+1", "hidden//==", 1769860800.0)
    assert read_document(json.dumps(WHOLE | {"Expiration": "2026-01-31T13:00:00+01:00"})).expires_at == 1769860800.0


def test_keys_that_live_long_have_no_token() -> None:
    document = {"Version": 1, "AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "hidden"}
    assert read_document(json.dumps(document)) == Keys("AKIAEXAMPLE", "hidden")
    assert read_document(json.dumps(document | {"SessionToken": None})) == Keys("AKIAEXAMPLE", "hidden")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hidden/secret+1", "JSON document"),
        ("[" * 100_000, "JSON document"),
        ("[]", "JSON document"),
        (json.dumps(WHOLE | {"Version": 2}), "JSON document"),
        (json.dumps({"Credentials": WHOLE}), "JSON document"),
        (json.dumps(WHOLE | {"AccessKeyId": None}), "`AccessKeyId`"),
        (json.dumps(WHOLE | {"AccessKeyId": "A/20150830, x=hidden"}), "access key id"),
        (json.dumps(WHOLE | {"SecretAccessKey": ""}), "`SecretAccessKey`"),
        (json.dumps(WHOLE | {"SecretAccessKey": "hidden "}), "secret access key"),
        (json.dumps(WHOLE | {"SessionToken": "hidden\r\nX-Amz-Acl: public-read"}), "session token"),
        (json.dumps(WHOLE | {"SessionToken": 7}), "`SessionToken`"),
        (json.dumps(WHOLE | {"SessionToken": ""}), "`SessionToken`"),
        (json.dumps(WHOLE | {"Expiration": "soon"}), "Expiration"),
        (json.dumps(WHOLE | {"Expiration": "2026-01-31T12:00:00"}), "Expiration"),
        (json.dumps(WHOLE | {"Expiration": 5}), "Expiration"),
    ],
)
def test_what_is_wrong_is_said_and_no_value_shown(text: str, words: str) -> None:
    with pytest.raises(BadKeys, match=words) as caught:
        read_document(text)
    assert "hidden" not in str(caught.value)

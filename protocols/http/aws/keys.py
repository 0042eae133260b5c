"""The gateway's keys for AWS, out of what a secret holds."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

# all of them go into a header, the key's id into a list there that has its own separators
_ID = re.compile(r"[A-Za-z0-9._=+@-]{1,128}\Z")
_SECRET = re.compile(r"[\x21-\x7e]{1,1024}\Z")
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}\Z")


class BadKeys(ValueError):
    """A secret holds no keys for AWS. The text says what is wrong with it, and never a value."""


@dataclass(frozen=True, slots=True)
class Keys:
    """`session_token` is empty for keys that live long; `expires_at`: seconds since the epoch, None: not known."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    expires_at: float | None = None

    def __post_init__(self) -> None:
        if not _ID.match(self.access_key_id):
            raise BadKeys("the access key id has characters that none has")
        if not _SECRET.match(self.secret_access_key):
            raise BadKeys("the secret access key is empty, or has characters that none has")
        if self.session_token and not _TOKEN.match(self.session_token):
            raise BadKeys("the session token has characters that none has")


def read_document(text: str) -> Keys:
    """Keys that were written as one document, so that they change together. Raises BadKeys.

    Source: AWS SDKs and Tools Reference Guide, "Process credential provider": a JSON object with `Version` 1,
    `AccessKeyId`, `SecretAccessKey` and, for keys that expire, `SessionToken` and `Expiration` (ISO 8601).
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("Version") != 1:
        raise BadKeys(
            'without `user` the secret is a JSON document {"Version": 1, "AccessKeyId": ..., "SecretAccessKey": ..., '
            '"SessionToken": ...}, as `aws configure export-credentials` prints it; this one is not'
        )
    access, secret = _text(document, "AccessKeyId"), _text(document, "SecretAccessKey")
    token = _text(document, "SessionToken") if document.get("SessionToken") is not None else ""
    return Keys(access, secret, token, _expiration(document.get("Expiration")))


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise BadKeys(f"the document has no text `{name}`")
    return value


def _expiration(value: object) -> float | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise BadKeys("`Expiration` is no time like `2026-01-31T12:00:00Z`")
    return found.timestamp()

"""Legal holds: what must stay, whatever a rule, a person or a full disk says.

A hold is a record, `retention.hold`; what lifts it is another, `retention.release`. So nobody can lift one without
leaving a trace, and a new index finds all of them again. What cannot be told apart from something that is held is held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from guard.record import removals
from guard.record.people import plainly

HOLD, RELEASE = "retention.hold", "retention.release"
_MAX_SUBJECT = 4096  # characters: what is longer is a statement or a body, and nobody's name


@dataclass(frozen=True, slots=True)
class Hold:
    """One of `subject` and `session` is given. `at`: ns."""

    id: str
    subject: str | None
    session: str | None
    reason: str
    by: str
    at: int
    seq: int


class Holds:
    """Those in force at one moment."""

    def __init__(self, holds: Mapping[str, Hold]) -> None:
        self.by_id = dict(holds)
        # whoever is held is held however they are spelt, and whatever issuer calls them so
        self._subjects = {plainly(hold.subject) for hold in holds.values() if hold.subject}
        self._sessions = {hold.session for hold in holds.values() if hold.session}

    @classmethod
    def read(cls, connection: Connection) -> Holds:
        """From the index."""
        found: dict[str, Hold] = {}
        for seq, at, kind, facts in removals.happened(connection, (HOLD, RELEASE)):
            name = str(facts.get("hold"))
            if kind == RELEASE:
                found.pop(name, None)
            else:
                texts = (facts.get("subject"), facts.get("session"))
                subject, session = (text if isinstance(text, str) and text else None for text in texts)
                found[name] = Hold(
                    name, subject, session, str(facts.get("reason") or ""), str(facts.get("by") or ""), at, seq
                )
        return cls(found)

    def __bool__(self) -> bool:
        return bool(self.by_id)

    def digest(self) -> str:
        """Another text whenever another set of holds is in force."""
        return hashlib.sha256("\n".join(sorted(self.by_id)).encode()).hexdigest()[:16] if self.by_id else ""

    def keep(self, facts: Mapping[str, Any] | None, subject_of: Callable[[str], str]) -> bool:
        """Whether a record must stay. facts: its payload, None where it cannot be read; subject_of: whose session it
        is, empty where nobody knows."""
        if not self.by_id:
            return False
        if facts is None or any(text in self._sessions or self._is_held(text) for text in _texts(facts)):
            return True
        session = facts.get("s")
        if not isinstance(session, str) or not session or not self._subjects:
            return False
        subject = subject_of(session)
        return not subject or self._is_held(subject)

    def _is_held(self, subject: str) -> bool:
        return len(subject) <= _MAX_SUBJECT and plainly(subject) in self._subjects


def _texts(facts: Mapping[str, Any]) -> Iterator[str]:
    """Every text of a record that could be the name of somebody or of a session."""
    for value in facts.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (each for each in value if isinstance(each, str))
        elif isinstance(value, dict):
            yield from (each for each in value.values() if isinstance(each, str))

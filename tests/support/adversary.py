"""An attacker's hands: raw sessions on a lab whose database holds what they are after."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from scripts.support import sample
from scripts.support.gateway import LISTENER
from scripts.support.lab import Lab
from tests.support import wire
from tests.support.bytewise import Raw

Answer = list[tuple[str, bytes]]

# the first customer's, and what must never be seen of them: the values, and what was made of them with upper() or || ''
FIRST = next(iter(sample.customers()))
CARD = str(FIRST[3])
COMPUTED = (
    "SELECT card || '' AS total FROM customers WHERE id = 1"  # a masked value that RowDescription says nothing of
)
VIP = (9001, "vera@vip.example", "4000 1234 5678 9010", "999-12-3456")
SECRETS = tuple(str(value) for row in sample.customers() for value in row[2:5]) + VIP[1:]
SETUP = f"""
CREATE TABLE vip_customers () INHERITS (customers);
INSERT INTO vip_customers VALUES ({VIP[0]}, 'Vera', '{VIP[1]}', '{VIP[2]}', '{VIP[3]}', 'Oslo', now());
CREATE MATERIALIZED VIEW copied AS SELECT id, card, upper(national_id) AS shouted FROM customers;
ALTER TABLE customers ADD CONSTRAINT one_card UNIQUE (card) DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE long_secrets (secret text);
ALTER TABLE long_secrets ALTER secret SET STORAGE EXTERNAL;
INSERT INTO long_secrets VALUES (repeat('{VIP[2]}', 1000));
SELECT lo_from_bytea(4242, 'nobody masks large objects');
ANALYZE;
"""


class Session:
    """One raw session of an identity."""

    def __init__(self, lab: Lab, who: str = "analyst", token: str = "", source: str = "127.0.0.1") -> None:
        self.raw = Raw(lab.gateway.listeners[LISTENER], source)
        try:
            self.greeting = self.raw.log_in(token or lab.tokens[who], user=who)
        except BaseException:
            self.raw.close()
            raise

    def say(self, *parts: bytes, answers: int = 1) -> Answer:
        """Sends it all at once; everything up to so many ReadyForQuery, or up to the notice that a command is held."""
        self.raw.send(*parts)
        found: Answer = []
        while answers:
            kind, body = self.raw.message()
            found.append((kind, body))
            if kind == "N" and b"held by rule" in body:
                break
            answers -= kind == "Z"
        return found

    def ask(self, *statements: str) -> Answer:
        """Simple queries, one after the other."""
        return [message for sql in statements for message in self.say(wire.query(sql))]


@contextlib.contextmanager
def session(lab: Lab, who: str = "analyst", token: str = "", source: str = "127.0.0.1") -> Iterator[Session]:
    """`source`: the address that the client connects from."""
    made = Session(lab, who, token, source)
    try:
        yield made
    finally:
        made.raw.close()


def held(answer: Answer) -> bool:
    return any(kind == "N" and b"held by rule" in body for kind, body in answer)


def bytes_of(answer: Answer) -> bytes:
    return b"".join(wire.message(kind, body) for kind, body in answer)


def errors(answer: Answer) -> list[dict[str, str]]:
    return [wire.fields(body) for kind, body in answer if kind == "E"]


def leaks(answer: Answer) -> list[str]:
    """The masked values that can be read in an answer, in whichever message."""
    seen = bytes_of(answer).decode("utf-8", "replace").upper()
    return [value for value in SECRETS if value.upper() in seen]

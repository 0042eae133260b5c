"""What a session under a mask tells of one row, after other statements of its own."""

from __future__ import annotations

from tests.support import wire
from tests.support.port import anything
from tests.support.talk import SSN, Talk
from tests.support.wire import complete, query, ready

SECRET = b"078-05-1120"
NEW = 99_999  # the OID of a relation that the catalog does not have


def ran(*messages: str) -> Talk:
    """A session of somebody with a mask on users.ssn that has run these, each a transaction of its own."""
    talk = Talk(anything, masks=[SSN])
    for sql in messages:
        assert talk.client(query(sql)) == query(sql), sql
        talk.server(complete("OK"), ready())
    return talk


def shown(talk: Talk, sql: str, table: int = NEW) -> bytes:
    """What the client sees of one row of a column that `table` stores; 0: of a computed one."""
    assert talk.client(query(sql)) == query(sql)
    return talk.server(wire.columns(wire.field("a", table, 1)), wire.row(SECRET), complete("SELECT 1"), ready())

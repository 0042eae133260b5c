"""Attack row 12: one name, two meanings. What counts is what the server took a name for, never what was sent last.

The cases `wp-...` are those of the shared wire cases.
"""

from __future__ import annotations

import pytest

from protocols.contract import Action, Analysis, Decision, Effect, HoldTerms, Outcome, Wait
from tests.support import wire
from tests.support.port import anything
from tests.support.talk import SSN, USERS, Talk
from tests.support.wire import SYNC, bind, close, execute, kinds, parse, query, ready

DELETE = "DELETE FROM users WHERE id = 1"
LEAK = "SELECT ssn || '' FROM users"
SECRET = b"078-05-1120"


def use(name: str, portal: str = "") -> bytes:
    return bind(portal, name) + execute(portal) + SYNC


def computed(*values: bytes) -> bytes:
    """A result with one computed column."""
    return wire.columns(wire.field("?column?")) + b"".join(wire.row(v) for v in values)


def test_wp_004_a_failed_reparse_keeps_the_old_statement() -> None:
    talk = Talk()
    talk.prepare("s1", DELETE)
    talk.client(parse("s1", "SELECT 1") + SYNC)
    talk.server(wire.error("42P05", 'prepared statement "s1" already exists'), ready())
    assert talk.client(use("s1")) == b""
    assert talk.session.waiting is Wait.HOLD
    assert talk.commands()[-1] == ("bind", DELETE, "hold")


def test_wp_004_sent_in_one_piece_waits_for_the_server() -> None:
    talk = Talk()
    talk.prepare("s1", DELETE)
    again = parse("s1", "SELECT 1") + SYNC
    assert talk.client(again + use("s1")) == again
    assert talk.session.waiting is Wait.SERVER
    talk.server(wire.error("42P05") + ready())
    assert talk.up() == b""
    assert talk.commands()[-1] == ("bind", DELETE, "hold")


def test_two_parses_of_a_new_name_in_one_piece() -> None:
    """The first makes the name, the second fails: Bind runs the first."""
    talk = Talk()
    first, second = parse("s1", DELETE) + SYNC, parse("s1", "SELECT 1") + SYNC
    sent = talk.client(first + second + use("s1"))
    assert sent.startswith(first + second)
    assert b"B" not in kinds(sent).encode()
    assert talk.session.waiting is Wait.SERVER
    talk.server(wire.PARSED, ready())
    assert talk.up() == b""
    talk.server(wire.error("42P05"), ready())
    assert talk.up() == b""
    assert talk.session.waiting is Wait.HOLD
    assert talk.commands()[-1] == ("bind", DELETE, "hold")


def test_a_reparse_of_a_name_that_sql_prepared() -> None:
    """PREPARE made s1, Parse of s1 fails: Bind runs what PREPARE made, and its column is computed from a masked one."""
    talk = Talk(masks=[SSN])
    talk.client(query(f"PREPARE s1 AS {LEAK}"))
    talk.server(wire.complete("PREPARE"), ready())
    sent = talk.client(parse("s1", "SELECT 'x'") + SYNC + use("s1"))
    assert kinds(sent) == "PS"
    talk.server(wire.error("42P05"), ready())
    assert kinds(talk.up()) == "BDES"
    told = talk.server(wire.BOUND, computed(SECRET), wire.complete("SELECT 1"), ready())
    assert wire.rows(told) == [[None]]


def test_wp_003_a_statement_that_sql_prepared_is_judged_at_bind() -> None:
    talk = Talk()
    talk.client(query(f"PREPARE s1 AS {DELETE}"))
    assert talk.session.waiting is Wait.HOLD  # PREPARE itself counts as what its statement does
    assert kinds(talk.resume(Outcome.APPROVED)) == "Q"
    talk.server(wire.complete("PREPARE"), ready())
    assert talk.client(use("s1")) == b""
    assert talk.session.waiting is Wait.HOLD  # approved was its preparation, once, and not its execution
    assert len(talk.port.holds) == 2


def test_wp_034_a_sql_prepared_statement_is_judged_anew_under_other_names() -> None:
    talk = Talk(masks=[SSN])
    talk.client(query("PREPARE s1 AS SELECT total::text FROM orders"))
    talk.server(wire.complete("PREPARE"), ready())
    talk.client(query("SET search_path = evil"))
    talk.server(wire.complete("SET"), ready())
    talk.client(use("s1"))
    assert talk.last("command")["reads"] == ["evil.orders"]


def test_wp_034_a_prepared_statement_is_judged_anew_under_other_names() -> None:
    talk = Talk()
    talk.prepare("s", "SELECT total::text FROM orders")
    talk.client(use("s"))
    assert talk.last("command")["reads"] == ["public.orders"]
    talk.server(wire.BOUND, wire.complete("SELECT 0"), ready())
    # the setting and the use in one piece: the second waits for the first
    sent = talk.client(query("SET search_path = evil") + use("s"))
    assert kinds(sent) == "Q"
    talk.server(wire.complete("SET"), ready())
    assert kinds(talk.up()) == "BES"
    assert talk.last("command")["reads"] == ["evil.orders"]


def test_a_setting_that_failed_changes_nothing() -> None:
    talk = Talk()
    talk.prepare("s", "SELECT total::text FROM orders")
    talk.client(query("SET search_path = evil"))
    talk.server(wire.error("22023"), ready())
    talk.client(use("s"))
    assert talk.last("command")["reads"] == ["public.orders"]


@pytest.mark.parametrize("how", ["statement", "commit at Sync"])
def test_a_setting_that_was_rolled_back_changes_nothing(how: str) -> None:
    """A deferred constraint fails at Sync: the error belongs to no message, and undoes the SET before it."""
    talk = Talk()
    talk.prepare("set", "SET search_path = evil")
    talk.prepare("insert", "INSERT INTO orders (id) VALUES (1)")
    sent = talk.client(bind("", "set") + execute())
    talk.server(wire.BOUND, wire.complete("SET"))
    assert kinds(sent) == "BE"
    assert kinds(talk.client(use("insert"))) == "BES"
    if how == "statement":
        talk.server(wire.BOUND, wire.error("23505"), ready())
    else:
        talk.server(wire.BOUND, wire.complete("INSERT 0 1"), wire.error("23503"), ready())
    talk.client(query("SELECT * FROM orders"))
    assert talk.last("command")["reads"] == ["public.orders"]


def test_wp_016_a_simple_query_drops_the_unnamed_statement() -> None:
    talk = Talk()
    talk.prepare("", DELETE)
    talk.client(query("SELECT 1"))
    talk.server(computed(b"1"), wire.complete("SELECT 1"), ready())
    sent = talk.client(use(""))
    assert kinds(sent) == "BS"
    assert bind("", "") not in sent  # to a name that does not exist, even if the server had kept the old one
    told = talk.server(wire.error("26000"), ready())
    assert wire.errors(told)[0]["C"] == "26000"
    assert wire.errors(told)[0]["M"] == "unnamed prepared statement does not exist"


def test_wp_017_prepared_statements_survive_a_rollback() -> None:
    talk = Talk()
    talk.begin()
    talk.prepare("s", DELETE)
    talk.client(query("ROLLBACK"))
    talk.server(wire.complete("ROLLBACK"), ready())
    assert talk.client(use("s")) == b""
    assert talk.commands()[-1] == ("bind", DELETE, "hold")


def test_a_name_that_nobody_prepared_never_reaches_the_server() -> None:
    talk = Talk()
    sent = talk.client(bind("", "ghost") + execute("ghost") + SYNC)
    assert b"ghost" not in sent
    assert kinds(sent) == "BS"
    told = talk.server(wire.error("26000"), ready())
    assert [e["M"] for e in wire.errors(told)] == ['prepared statement "ghost" does not exist']


def test_deallocate_and_discard_forget_what_the_protocol_prepared() -> None:
    for sql, tag in (
        ("DEALLOCATE s", "DEALLOCATE"),
        ("DEALLOCATE ALL", "DEALLOCATE ALL"),
        ("DISCARD ALL", "DISCARD ALL"),
    ):
        talk = Talk()
        talk.prepare("s", "SELECT 1")
        talk.client(query(sql))
        talk.server(wire.complete(tag), ready())
        assert bind("", "s") not in talk.client(use("s")), sql


def test_deallocate_and_prepare_in_one_message_change_the_name() -> None:
    talk = Talk(masks=[SSN])
    talk.prepare("s", "SELECT 'x'")
    talk.client(query(f"DEALLOCATE s; PREPARE s AS {LEAK}"))
    talk.server(wire.complete("DEALLOCATE"), wire.complete("PREPARE"), ready())
    talk.client(use("s"))
    told = talk.server(wire.BOUND, computed(SECRET), wire.complete("SELECT 1"), ready())
    assert wire.rows(told) == [[None]]


# ---------------------------------------------------------------- portals and cursors share one namespace, too

CURSOR = f"DECLARE p CURSOR FOR {LEAK}"


def opened(masks: bool = True) -> Talk:
    """In a block, with a portal `p` over a harmless statement whose columns the server has described."""
    talk = Talk(masks=[SSN] if masks else [])
    talk.begin()
    talk.prepare("s", "SELECT 'x'")
    talk.client(bind("p", "s") + SYNC)
    talk.server(wire.BOUND, wire.columns(wire.field("?column?")) if masks else b"", ready("T"))
    return talk


def fetched(talk: Talk) -> list[list[bytes | None]]:
    """Rows of Execute `p` as the client sees them, the server answering with the secret."""
    sent = talk.up()
    if "D" in kinds(sent):
        talk.server(wire.columns(wire.field("?column?")))
    return wire.rows(talk.server(wire.row(SECRET), wire.complete("SELECT 1"), ready("T")))


def test_a_cursor_with_the_name_of_a_portal_that_sql_closed() -> None:
    talk = opened()
    for sql, tag in (("CLOSE p", "CLOSE CURSOR"), (CURSOR, "DECLARE CURSOR")):
        talk.client(query(sql))
        talk.server(wire.complete(tag), ready("T"))
    talk.session.client(execute("p") + SYNC)
    assert fetched(talk) == [[None]]


def test_a_cursor_with_the_name_of_a_portal_of_an_earlier_transaction() -> None:
    talk = opened()
    talk.client(query(f"COMMIT; BEGIN; {CURSOR}"))
    talk.server(wire.complete("COMMIT"), wire.complete("BEGIN"), wire.complete("DECLARE CURSOR"), ready("T"))
    talk.session.client(execute("p") + SYNC)
    assert fetched(talk) == [[None]]


def test_a_portal_that_sql_replaces_in_the_same_piece() -> None:
    talk = opened()
    sent = talk.client(query(f"CLOSE p; {CURSOR}") + execute("p") + SYNC)
    assert kinds(sent) == "Q"
    assert talk.session.waiting is Wait.SERVER
    talk.server(wire.complete("CLOSE CURSOR"), wire.complete("DECLARE CURSOR"), ready("T"))
    assert fetched(talk) == [[None]]


def test_a_portal_that_is_closed_and_declared_in_the_same_piece() -> None:
    talk = opened()
    sent = talk.client(close("P", "p") + query(CURSOR) + execute("p") + SYNC)
    assert kinds(sent) == "CQ"
    talk.server(wire.CLOSED, wire.complete("DECLARE CURSOR"), ready("T"))
    assert fetched(talk) == [[None]]


def test_a_portal_whose_rebinding_fails_keeps_what_it_was() -> None:
    """`p` exists: Bind of it fails, the savepoint brings the transaction back, and Execute runs the old one."""
    talk = opened(masks=False)
    talk.client(query("SAVEPOINT a"))
    talk.server(wire.complete("SAVEPOINT"), ready("T"))
    talk.prepare("other", "SELECT 2")
    before = talk.last("command")["n"]
    sent = talk.client(bind("p", "other") + SYNC + query("ROLLBACK TO a") + execute("p") + SYNC)
    assert "E" not in kinds(sent)
    talk.server(wire.error("42P03"), ready("E"), wire.complete("ROLLBACK"), ready("T"))
    assert kinds(talk.up()) == "ES"
    talk.server(wire.row(b"x"), wire.complete("SELECT 1"), ready("T"))
    assert talk.responses()[-1][0] not in (before + 1,)  # not put down to the Bind that failed


def test_closing_and_binding_again_leaves_the_new_portal() -> None:
    talk = opened(masks=False)
    talk.prepare("other", "SELECT 2")
    sent = talk.client(close("P", "p") + bind("p", "other") + SYNC)
    assert kinds(sent) == "CBS"
    number = talk.last("command")["n"]
    talk.server(wire.CLOSED, wire.BOUND, ready("T"))
    assert talk.client(execute("p", 1) + SYNC)
    talk.server(wire.row(b"2"), wire.SUSPENDED, ready("T"))
    assert talk.responses()[-1] == (number, "suspended")


def test_execute_of_an_sql_cursor_is_judged_and_masked() -> None:
    talk = Talk(masks=[SSN])
    talk.begin()
    talk.client(query(CURSOR))
    talk.server(wire.complete("DECLARE CURSOR"), ready("T"))
    sent = talk.client(execute("p", 1) + SYNC)
    assert kinds(sent) == "DES"
    told = talk.server(wire.columns(wire.field("ssn", USERS, 2)), wire.row(SECRET), wire.SUSPENDED, ready("T"))
    assert kinds(told) == "DsZ"  # the description that the client did not ask for stays here
    assert wire.rows(told) == [[b"[redacted]"]] or SECRET not in told
    assert talk.commands()[-1][:2] == ("execute", "(cursor) p")


def test_execute_of_a_portal_that_nobody_made_fails_as_on_the_server() -> None:
    talk = Talk()
    sent = talk.client(execute("ghost") + SYNC)
    assert b"ghost" not in sent
    told = talk.server(wire.error("34000"), ready())
    assert [(e["C"], e["M"]) for e in wire.errors(told)] == [("34000", 'portal "ghost" does not exist')]


def test_portals_end_with_their_transaction() -> None:
    talk = Talk()
    talk.prepare("s", "SELECT 1")
    talk.client(bind("p", "s") + SYNC)
    talk.server(wire.BOUND, ready("I"))
    sent = talk.client(execute("p") + SYNC)
    assert kinds(sent) == "ES"
    assert execute("p") not in sent


# ---------------------------------------------------------------- names that look different and are one


@pytest.mark.parametrize(
    "message",
    [
        parse("n" * 63 + "x", "SELECT 1"),
        bind("n" * 63 + "x", ""),
        close("S", "n" * 63 + "x"),
        close("P", "n" * 63 + "x"),
    ],
    ids=["parse", "bind", "close statement", "close portal"],
)
def test_names_that_the_server_would_cut_are_refused(message: bytes) -> None:
    """It looks 63 bytes of a name up: closing `n..x` would close `n..y`, and a new `n..z` would answer to `n..y`."""
    talk = Talk()
    talk.prepare("", "SELECT 1")
    assert talk.client(message) == b""
    assert talk.fatal()["C"] == "42622"


def test_names_of_the_longest_length_are_fine() -> None:
    talk = Talk()
    talk.prepare("n" * 63, "SELECT 1")
    assert kinds(talk.client(use("n" * 63, "p" * 63))) == "BES"


@pytest.mark.parametrize(
    "message",
    [
        wire.message("P", b"\xe8\0SELECT 'x'\0\0\0"),
        wire.message("B", b"\0\xe8\0" + b"\0" * 6),
        wire.message("B", b"\xe8\0\0" + b"\0" * 6),
        wire.message("E", b"\xe8\0" + b"\0" * 4),
        wire.message("D", b"P\xe8\0"),
        wire.message("C", b"S\xe8\0"),
        wire.message("C", b"P\xe8\0"),
    ],
    ids=["parse", "bind", "bind portal", "execute", "describe", "close statement", "close portal"],
)
def test_a_name_that_is_no_utf8_is_never_taken_for_another(message: bytes) -> None:
    """In LATIN1 two bytes beyond ASCII are two names; undecodable both look the same, and like one that SQL can say."""
    talk = Talk(masks=[SSN])
    talk.session.state.parameter_status("client_encoding", "LATIN1")
    assert talk.client(message) == b""
    assert talk.fatal()["C"] == "42622"


def test_the_bytes_of_a_name_are_another_name_in_another_encoding() -> None:
    """What was parsed under them in UTF8 is not what they name in LATIN1: there SQL may have prepared that."""
    talk = Talk(anything, masks=[SSN])
    talk.prepare("\xe9", "SELECT total FROM orders")
    talk.client(query("SET client_encoding = 'LATIN1'"))
    talk.server(wire.complete("SET"), wire.parameter("client_encoding", "LATIN1"), ready())
    talk.client(query('PREPARE "\xc3\xa9" AS SELECT upper(ssn) FROM users'.encode("latin-1")))
    talk.server(wire.complete("PREPARE"), ready())
    assert talk.client(use("\xe9")) == b""
    assert talk.fatal()["C"] == "42622"


def _own_only(analysis: Analysis) -> Decision:
    """Whatever a session does with its own temporary tables is fine; deletes elsewhere wait for a person."""
    if Effect.DATA_DELETE in analysis.effects and any(not w.startswith("pg_temp.") for w in analysis.writes):
        return Decision(Action.HOLD, "ask-first", "", hold=HoldTerms())
    return Decision(Action.ALLOW, "allow", "")


def _ran(talk: Talk, sql: str, tag: str) -> None:
    talk.client(query(sql))
    talk.server(wire.complete(tag) + ready())


def test_a_temporary_table_that_takes_a_name_does_not_lift_a_hold() -> None:
    """The server keeps the plan that it made before: a temporary relation invalidates no other's (seen on 13 to 18)."""
    talk = Talk(_own_only)
    _ran(talk, "CREATE TEMP TABLE other (id int)", "CREATE TABLE")
    talk.prepare("s1", "DELETE FROM users")
    _ran(talk, "CREATE TEMP TABLE users (id int)", "CREATE TABLE")
    assert talk.client(use("s1")) == b""
    assert talk.session.waiting is Wait.HOLD


def test_nor_does_one_that_comes_back_after_a_describe() -> None:
    """Planned anew at the Describe, while the name was the table's own."""
    talk = Talk(_own_only)
    _ran(talk, "CREATE TEMP TABLE other (id int)", "CREATE TABLE")
    _ran(talk, "CREATE TEMP TABLE users (id int)", "CREATE TABLE")
    talk.prepare("s1", "DELETE FROM users")
    _ran(talk, "DROP TABLE pg_temp.users", "DROP TABLE")
    talk.client(wire.describe("S", "s1") + SYNC)
    talk.server(wire.parameters() + wire.message("n") + ready())
    _ran(talk, "CREATE TEMP TABLE users (id int)", "CREATE TABLE")
    assert talk.client(use("s1")) == b""
    assert talk.session.waiting is Wait.HOLD


def test_nor_does_one_that_goes_and_comes_in_one_message() -> None:
    """EXPLAIN EXECUTE plans anew as well, and afterwards everything is called what it was."""
    talk = Talk(_own_only)
    _ran(talk, "CREATE TEMP TABLE users (id int)", "CREATE TABLE")
    _ran(talk, "PREPARE s1 AS DELETE FROM users", "PREPARE")
    _ran(talk, "DROP TABLE pg_temp.users", "DROP TABLE")
    _ran(talk, "EXPLAIN EXECUTE s1", "EXPLAIN")
    _ran(talk, "CREATE TEMP TABLE users (id int)", "CREATE TABLE")
    assert talk.client(query("EXECUTE s1")) == b""
    assert talk.session.waiting is Wait.HOLD


def test_a_temporary_table_with_a_name_of_its_own_is_free() -> None:
    talk = Talk(_own_only)
    _ran(talk, "CREATE TEMP TABLE mine (id int)", "CREATE TABLE")
    talk.prepare("s1", "DELETE FROM mine")
    assert talk.client(use("s1")) == use("s1")


def test_one_that_hides_another_is_free_where_nothing_was_planned_before() -> None:
    talk = Talk(_own_only)
    _ran(talk, "CREATE TEMP TABLE users (id int)", "CREATE TABLE")
    sent = query("DELETE FROM users")
    assert talk.client(sent) == sent


@pytest.mark.parametrize(
    ("in_flight", "asks"),
    [
        (parse("made", "SELECT 1"), "EXECUTE s"),
        (close("S", "s"), "EXECUTE s"),
        (bind("p", "s"), "FETCH FROM p"),
    ],
    ids=["parse", "close", "bind"],
)
def test_a_statement_that_looks_a_name_up_waits_for_the_names_in_flight(in_flight: bytes, asks: str) -> None:
    talk = Talk(anything)
    talk.begin()
    talk.prepare("s", "SELECT total FROM orders")
    sent = talk.client(in_flight + query(asks))
    assert kinds(sent) == kinds(in_flight) + "H"
    assert talk.session.waiting is Wait.SERVER


def test_a_named_portal_waits_for_an_execution_that_may_close_it() -> None:
    """CLOSE and DECLARE in flight may put a cursor of that name in its place."""
    talk = Talk(anything)
    talk.begin()
    talk.prepare("s", "SELECT total FROM orders")
    talk.prepare("shut", "CLOSE p")
    talk.client(bind("p", "s") + SYNC)
    talk.server(wire.BOUND, ready("T"))
    assert kinds(talk.client(bind("", "shut") + execute() + execute("p") + SYNC)) == "BEH"
    assert talk.session.waiting is Wait.SERVER


def test_a_portal_whose_bind_is_not_confirmed_waits_behind_a_sync() -> None:
    """The Bind may fail and leave an older portal of that name."""
    talk = Talk(anything)
    talk.begin()
    talk.prepare("s", "SELECT total FROM orders")
    assert kinds(talk.client(bind("p", "s") + SYNC + execute("p") + SYNC)) == "BS"
    assert talk.session.waiting is Wait.SERVER
    talk.server(wire.BOUND, ready("T"))
    assert kinds(talk.up()) == "ES"


def test_a_name_of_sql_s_with_a_quote_in_it_is_judged_by_that_name() -> None:
    talk = Talk(anything)
    talk.client(query('PREPARE "a""b" AS SELECT total FROM orders'))
    talk.server(wire.complete("PREPARE"), ready())
    talk.client(use('a"b'))
    assert (talk.last("command")["reads"], talk.last("command")["decision"]) == (["public.orders"], "allow")

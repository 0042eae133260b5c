"""What every protocol must do through a live gateway, asked of each in its own words, on real servers and drivers."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import random
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from scripts.support import sample
from scripts.support.issuer import Issuer
from tests.conformance.adapter import Client, Ended, ServerError
from tests.conformance.conftest import INSPECT_MAX, Stand
from tests.support.journal import await_records, records, verify

pytestmark = pytest.mark.e2e

SENSITIVE = [value for row in sample.customers() for value in row[2:5]]
# millions of rows, sent while they are made
MANY_ROWS = "SELECT a.name, b.name, c.name FROM customers AS a, customers AS b, customers AS c"


def until[T](ask: Callable[[], T], seconds: float = 20.0) -> T:
    """The first answer that is true."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def outcome(act: Callable[[], Any]) -> Any:
    """What it returns, or the code of its error."""
    try:
        return act()
    except ServerError as error:
        return ("error", error.code)


def attempt(act: Callable[[], Any]) -> Any:
    """What it returns, or its error."""
    try:
        return act()
    except (ServerError, Ended) as error:
        return error


# ---------------------------------------------------------------- identity


def test_a_token_opens_a_session_in_its_name(stand: Stand) -> None:
    with contextlib.closing(stand.enter(stand.holder("night-job", "agents"))) as client:
        assert client.run("SELECT 1 + 1") == [(2,)]
        sessions = [one for one in stand.ask("sessions") if one["subject"] == "night-job"]
    assert [one["resource"] for one in sessions] == ["shop"]
    started = await_records(
        stand.lab.gateway.state_dir, lambda r: r["t"] == "session.start" and r["subject"] == "night-job"
    )
    assert started[0]["protocol"] == stand.adapter.name


def test_what_is_no_valid_token_opens_nothing(stand: Stand) -> None:
    with Issuer(stand.lab.authority) as stranger:
        refused = {
            "a static password": "hunter2-hunter2",
            "the upstream's own password": stand.lab.server.password,
            "an expired token": stand.holder("late", "agents", ttl=-120).password,
            "a token for another audience": stand.lab.issuer.token("analyst", ["analysts"], aud="elsewhere"),
            "a token of an unknown issuer": stranger.token("analyst", ["analysts"]),
            "a token that nobody signed": f"{stand.lab.tokens['analyst'].rpartition('.')[0]}.",
        }
        for what, password in refused.items():
            stand.secrets.add(password)
            login = stand.holder("nobody")
            with pytest.raises(Ended) as caught:
                stand.adapter.connect(stand.lab, type(login)(login.user, password)).close()
            assert caught.value.code in stand.adapter.codes_refused, what
            assert password not in caught.value.text, what
    refusals = await_records(stand.lab.gateway.state_dir, lambda r: r["t"] == "session.refused", len(refused))
    assert all(record["why"] for record in refusals)


def test_an_identity_without_a_policy_is_refused_its_commands(stand: Stand) -> None:
    with contextlib.closing(stand.enter(stand.holder("stranger"))) as client:
        assert outcome(lambda: client.run("SELECT count(*) FROM orders"))[1] in stand.adapter.codes_denied


def test_the_name_that_a_client_claims_gives_nothing(stand: Stand) -> None:
    login = stand.holder("modest", "agents")
    with contextlib.closing(stand.enter(type(login)("admin", login.password))) as client:
        assert outcome(lambda: client.run("DROP TABLE orders"))[1] in stand.adapter.codes_denied


# ---------------------------------------------------------------- commands


def test_an_allowed_command_answers_as_directly(stand: Stand) -> None:
    queries = (
        "SELECT id, item, total, status FROM orders ORDER BY id",
        "SELECT count(*), max(total) FROM orders WHERE status <> 'new'",
        "SELECT NULL, '', 'a''b', 1.50",
    )
    with stand.client("agent") as client, stand.direct() as direct:
        for query in queries:
            assert client.run(query) == direct.run(query)
        prepared = "SELECT item FROM orders WHERE id = ? AND customer_id > ?"
        for number in (1, 2, 3, 4):
            assert client.prepared(prepared, number, 0) == direct.prepared(prepared, number, 0)


def test_after_a_denial_everything_is_as_after_an_error(stand: Stand) -> None:
    """Attack row 17: a refused statement leaves connection and transaction where the server's own refusal would."""
    words = stand.adapter.words

    def script(client: Client, bad: str) -> list[Any]:
        seen: list[Any] = [outcome(lambda: client.run(bad)), client.in_transaction()]
        for text in ("BEGIN", "INSERT INTO notes VALUES (1, 'in the block')", bad):
            seen += [outcome(lambda text=text: client.run(text)), client.in_transaction()]
        seen += [outcome(lambda: client.run("SELECT id FROM notes")), client.in_transaction()]
        for text in ("COMMIT", "SELECT id, note FROM notes"):
            seen += [outcome(lambda text=text: client.run(text)), client.in_transaction()]
        seen += [outcome(lambda: client.prepared("SELECT count(*) FROM notes")), client.in_transaction()]
        return seen

    with stand.direct() as direct:
        expected = script(direct, words.fails)
        direct.run("DELETE FROM notes")
    with stand.client("agent") as client:
        seen = script(client, "DROP TABLE orders")
    differing = [(mine, theirs) for mine, theirs in zip(seen, expected, strict=True) if mine != theirs]
    assert len(differing) == 2
    for mine, theirs in differing:
        assert mine[0] == theirs[0] == "error"
        assert mine[1] in stand.adapter.codes_denied


def test_a_denied_prepared_statement_never_reaches_the_server(stand: Stand) -> None:
    with stand.client("agent") as client:
        for _ in range(3):
            with pytest.raises(ServerError, match="agents-never-reshape") as caught:
                client.prepared("DROP TABLE orders /* denied-prepared */")
            assert caught.value.code in stand.adapter.codes_denied
        assert client.prepared("SELECT count(*) FROM orders WHERE id = ?", 1) == [(1,)]
    assert not stand.reached("denied-prepared")


def test_a_command_above_the_limit_is_refused(stand: Stand) -> None:
    """Attack row 4: what is too large to be judged does not pass."""
    with stand.client("agent") as client, pytest.raises((ServerError, Ended)):
        client.run(f"SELECT 1 /* oversize {'x' * 16 * INSPECT_MAX} */")
    assert not stand.reached("oversize")


def test_a_cancel_ends_the_statement_and_not_the_session(stand: Stand) -> None:
    words = stand.adapter.words
    with (
        stand.client("admin") as client,
        stand.direct() as direct,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        statement = f"{words.sleep.format(60)} /* to-be-cancelled */"
        running = pool.submit(outcome, lambda: client.run(statement))
        until(lambda: direct.run(words.busy.format("to-be-cancelled"))[0][0])
        client.cancel()
        answer = running.result(20)
        # MySQL's SLEEP says that it was interrupted in its result
        assert answer == [(1,)] or answer[1] in stand.adapter.codes_cancelled
        until(lambda: not direct.run(words.busy.format("to-be-cancelled"))[0][0])
        assert client.run("SELECT 1") == [(1,)]


# ---------------------------------------------------------------- approval


class Held:
    """A statement that waits, in a thread of its own."""

    def __init__(self, stand: Stand, client: Client, sql: str, *parameters: Any) -> None:
        self.stand = stand
        known = {one["id"] for one in self.requests()}
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        run = (lambda: client.prepared(sql, *parameters)) if parameters else (lambda: client.run(sql))
        self.answer = self._pool.submit(attempt, run)
        self._pool.shutdown(wait=False)
        self.id = str(until(lambda: [one["id"] for one in self.requests() if one["id"] not in known])[0])

    def requests(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.stand.ask("approvals", "list", "--status", "all")
        return found

    def status(self) -> str:
        return str(next(one["status"] for one in self.requests() if one["id"] == self.id))

    def vote(self, verb: str, reason: str) -> None:
        token = self.stand.holder("dana", "oncall").password
        done = self.stand.lab.gateway.cli("approvals", verb, self.id, "--reason", reason, token=token)
        assert done.returncode == 0, done.stderr


def test_an_approved_command_runs_exactly_once(stand: Stand) -> None:
    with stand.direct() as direct, stand.client("agent") as client:
        direct.run("INSERT INTO notes VALUES (1, 'one'), (2, 'two')")
        held = Held(stand, client, "DELETE FROM notes WHERE id = 1 /* held-text */")
        assert "DELETE FROM notes WHERE id = 1" in stand.ask("approvals", "show", held.id)["text"]
        assert not stand.reached("held-text")
        held.vote("approve", "it is mine")
        assert held.answer.result(20) == []
        assert direct.run("SELECT id FROM notes") == [(2,)]
        assert until(lambda: held.status() == "spent")
        again = Held(stand, client, "DELETE FROM notes WHERE id = 1 /* held-text */")
        assert again.id != held.id
        again.vote("deny", "once was enough")
        assert again.answer.result(20).code in stand.adapter.codes_denied
        assert client.run("SELECT count(*) FROM notes") == [(1,)]


def test_a_refused_command_is_an_error_with_its_reason(stand: Stand) -> None:
    with stand.direct() as direct, stand.client("agent") as client:
        direct.run("INSERT INTO notes VALUES (3, 'three')")
        held = Held(stand, client, "DELETE FROM notes WHERE id = ? /* held-prepared */", 3)
        shown = stand.ask("approvals", "show", held.id)
        assert "3" in str(shown["params"])
        held.vote("deny", "not on a Friday")
        error = held.answer.result(20)
        assert isinstance(error, ServerError)
        assert error.code in stand.adapter.codes_denied
        assert "not on a Friday" in error.text
        assert direct.run("SELECT id FROM notes") == [(3,)]
        assert client.prepared("SELECT count(*) FROM notes WHERE id = ?", 3) == [(1,)]


def test_a_client_that_leaves_withdraws(stand: Stand) -> None:
    with stand.direct() as direct:
        direct.run("INSERT INTO notes VALUES (4, 'four')")
        client = stand.connect("agent")
        held = Held(stand, client, "DELETE FROM notes WHERE id = 4")
        client.drop()
        assert isinstance(held.answer.result(20), Ended)
        client.close()
        assert until(lambda: held.status() == "withdrawn")
        assert direct.run("SELECT id FROM notes") == [(4,)]


# ---------------------------------------------------------------- results


def test_sensitive_values_never_arrive(stand: Stand) -> None:
    queries = (
        "SELECT * FROM customers",
        "SELECT id, email AS a, card AS b, national_id AS city FROM customers",
        "SELECT c.* FROM (SELECT * FROM customers) AS c",
        "WITH c AS (SELECT name, card AS x FROM customers) SELECT * FROM c",
        "SELECT name, email FROM customer_orders",
        "SELECT name, upper(email), concat(card, '') FROM customers",
        "SELECT city, max(email) FROM customers GROUP BY city",
        "SELECT name, email FROM customers UNION SELECT city, card FROM customers",
        "WITH orders AS (SELECT card AS total, id FROM customers) SELECT total FROM orders",
    )
    for identity in ("analyst", "admin"):
        with stand.client(identity) as client:
            for query in queries:
                for run in (client.run, client.prepared):
                    seen = str(outcome(lambda run=run, query=query: run(query)))
                    leaked = [value for value in SENSITIVE if value in seen or value.upper() in seen]
                    assert bool(leaked) == (identity == "admin"), query


def test_what_is_clear_stays_clear(stand: Stand) -> None:
    with stand.client("analyst") as client:
        rows = client.run("SELECT id, name, email, card, city FROM customers ORDER BY id")
        again = client.prepared("SELECT id, name, email, card, city FROM customers ORDER BY id")
    originals = list(sample.customers())
    assert [(row[0], row[1], row[4]) for row in rows] == [(row[0], row[1], row[5]) for row in originals]
    assert [row[3].replace(" ", "")[-4:] for row in rows] == [row[3].replace(" ", "")[-4:] for row in originals]
    assert len({row[2] for row in rows}) == len(rows)  # tokens stay distinct
    assert again == rows


def test_the_upstream_dying_in_a_result_ends_that_session_only(stand: Stand) -> None:
    words = stand.adapter.words
    with (
        stand.client("agent") as other,
        stand.direct() as direct,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        assert other.run("SELECT 1") == [(1,)]
        client = stand.connect("admin")
        running = pool.submit(client.run, f"{MANY_ROWS} /* dies-midway */")
        until(lambda: direct.run(words.busy.format("dies-midway"))[0][0])
        stand.adapter.end(direct, "dies-midway")
        with pytest.raises((Ended, ServerError)):
            running.result(60)
        with pytest.raises((Ended, ServerError)):
            client.run("SELECT 1")
        client.close()
        assert other.run("SELECT 1") == [(1,)]


# ---------------------------------------------------------------- record


def test_commands_and_answers_are_on_record(stand: Stand) -> None:
    tag = f"recorded-{random.randrange(1 << 40)}"
    with stand.client("agent") as client:
        client.run(f"SELECT id FROM orders WHERE id < 4 /* {tag}-text */")
        client.prepared(f"SELECT item FROM orders WHERE id = ? /* {tag}-bound */", 7)
        outcome(lambda: client.run(f"DROP TABLE orders /* {tag}-denied */"))
    with stand.client("admin") as client:  # nobody else may ask for what is not there
        outcome(lambda: client.run(f"{stand.adapter.words.fails} /* {tag}-failed */"))
    state = stand.lab.gateway.state_dir
    commands = await_records(state, lambda r: r["t"] == "command" and tag in r.get("text", ""), 4)
    by_tag = {record["text"].split(f"{tag}-")[1].split(" ")[0]: record for record in commands}
    assert {name: record["decision"] for name, record in by_tag.items()} == {
        "text": "allow", "bound": "allow", "denied": "deny", "failed": "allow",
    }  # fmt: skip
    assert by_tag["text"]["reads"] == [f"{stand.adapter.words.schema}.orders"]
    assert by_tag["text"]["effects"] == ["data.select"]
    assert by_tag["denied"]["rule"] == "demo/agents-never-reshape"
    assert by_tag["bound"]["params"] == ["7"]
    session = by_tag["text"]["s"]
    assert [name for name, record in by_tag.items() if record["s"] != session] == ["failed"]
    numbers = {(record["s"], record["n"]): name for name, record in by_tag.items()}
    found = await_records(state, lambda r: r["t"] == "response" and (r["s"], r["n"]) in numbers, 4)
    answers = {numbers[record["s"], record["n"]]: record for record in found}
    statuses = {name: record["status"] for name, record in answers.items()}
    assert statuses == {"text": "ok", "bound": "ok", "denied": "error", "failed": "error"}
    assert (answers["text"]["rows"], answers["bound"]["rows"]) == (3, 1)
    assert answers["denied"]["sqlstate"] in stand.adapter.codes_denied
    ended = await_records(state, lambda r: r["t"] == "session.end" and r["s"] == session)
    assert ended[0]["commands"] >= 3
    verify(state)


def test_a_session_can_be_replayed(stand: Stand) -> None:
    with stand.client("analyst") as client:
        client.run("SELECT name, email FROM customers WHERE id = 5 /* replayed */")
    (command,) = await_records(
        stand.lab.gateway.state_dir, lambda r: r["t"] == "command" and "replayed" in r.get("text", "")
    )
    token = stand.lab.tokens["admin"]
    done = until(
        lambda: (lambda run: run if "replayed" in run.stdout else None)(
            stand.lab.gateway.cli("replay", command["s"], "--instant", token=token)
        )
    )
    name, email = next((row[1], row[2]) for row in sample.customers() if row[0] == 5)
    assert name in done.stdout
    assert email not in done.stdout


# ---------------------------------------------------------------- control


def test_containment_ends_the_session_at_once_and_keeps_it_out(stand: Stand) -> None:
    login = stand.holder("contractor", "agents")
    client = stand.enter(login)
    client.run("SELECT 1")
    started = time.monotonic()
    done = stand.lab.gateway.cli("contain", "contractor", "--reason", "offboarded", token=stand.lab.tokens["admin"])
    assert done.returncode == 0, done.stderr
    try:
        with pytest.raises(Ended) as caught:
            until(lambda: client.run("SELECT 1") != [(1,)])
        assert caught.value.code in stand.adapter.codes_ended
        assert time.monotonic() - started < 10  # the program takes its time to start; the gateway takes none
        with pytest.raises(Ended) as caught:
            stand.enter(login).close()
        assert caught.value.code in stand.adapter.codes_refused
    finally:
        client.close()
        done = stand.lab.gateway.cli("release", "contractor", token=stand.lab.tokens["admin"])
        assert done.returncode == 0, done.stderr


def test_a_session_ends_when_an_operator_says_so(stand: Stand) -> None:
    with contextlib.closing(stand.enter(stand.holder("to-be-killed", "agents"))) as client:
        client.run("SELECT 1")
        (mine,) = [one for one in stand.ask("sessions") if one["subject"] == "to-be-killed"]
        done = stand.lab.gateway.cli(
            "terminate", mine["session"], "--reason", "enough", token=stand.lab.tokens["admin"]
        )
        assert done.returncode == 0, done.stderr
        with pytest.raises(Ended):
            until(lambda: client.run("SELECT 1") != [(1,)])


# ---------------------------------------------------------------- what is not the protocol


def test_garbage_ends_its_own_connection_only(stand: Stand) -> None:
    """Attack row 2, first bytes: what was sent is of no protocol, or lies about its lengths."""
    source = random.Random(1)
    garbage = [*stand.adapter.garbage, *(source.randbytes(size) for size in (1, 7, 64, 5000))]
    with stand.client("agent") as client:
        for sent in garbage:
            address = (stand.lab.gateway.host, stand.lab.gateway.port)
            with socket.create_connection(address, 20) as raw, contextlib.suppress(ConnectionError):
                raw.sendall(sent)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass
        assert client.run("SELECT 1") == [(1,)]


def test_nothing_that_must_not_be_seen_is_anywhere(stand: Stand) -> None:
    """Everything that the tests before have left: mitmweb's page, the journal, the store, the logs."""
    with stand.client("analyst") as client:
        client.run("SELECT name, email, card, national_id FROM customers WHERE id = 7 /* looked-at */")
        client.run("SELECT secret FROM credentials /* looked-at */")
        name = next(row[1] for row in sample.customers() if row[0] == 7)
        flow = until(lambda: text if name in (text := flow_with(stand, "looked-at")) else "")
    (session,) = {
        record["s"]
        for record in await_records(
            stand.lab.gateway.state_dir, lambda r: r["t"] == "command" and "looked-at" in r.get("text", ""), 2
        )
    }
    mine = [record for record in records(stand.lab.gateway.state_dir) if record.get("s") == session]
    wires = b"".join(base64.b64decode(record.get("wire", "")) for record in mine).decode(errors="replace")
    assert name in wires
    secrets = [row[2] for row in sample.credentials()]
    assert [value for value in [*SENSITIVE, *secrets] if value in f"{flow}{mine}{wires}"] == []
    page = "".join(shown(stand, flow["id"]) for flow in stand.page("/flows")) + str(stand.page("/flows"))
    kept = [path.read_bytes() for path in stand.lab.gateway.state_dir.rglob("*") if path.is_file()]
    kept += [stand.lab.gateway.log.read_bytes(), str(records(stand.lab.gateway.state_dir)).encode(), page.encode()]
    for secret in stand.secrets:
        assert not any(secret.encode() in part for part in kept)


def flow_with(stand: Stand, tag: str) -> str:
    """The text of the session on mitmweb's page in which this was said."""
    return next((text for flow in stand.page("/flows") if tag in (text := shown(stand, flow["id"]))), "")


def shown(stand: Stand, flow: str) -> str:
    return "".join(one["text"] for one in stand.page(f"/flows/{flow}/messages/content/auto.json"))

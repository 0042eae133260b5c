"""Floods, giants and malformed bytes: the process lives, serves others, and gives back all that it took."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.support.gateway import LISTENER
from scripts.support.lab import Lab
from tests.support import wire
from tests.support.adversary import bytes_of, errors, session
from tests.support.bytewise import eventually
from tests.support.wire import SYNC, bind, close, copy_data, describe, execute, parse, query

pytestmark = pytest.mark.e2e


def descriptors(lab: Lab) -> int:
    return len(os.listdir(f"/proc/{lab.gateway.process.pid}/fd"))


def memory(lab: Lab) -> int:
    """Bytes that the gateway has in memory."""
    with open(f"/proc/{lab.gateway.process.pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def serves(lab: Lab) -> None:
    """A session of somebody else, from elsewhere, works as ever."""
    with session(lab, "admin", source="127.0.0.2") as s:
        assert wire.rows(bytes_of(s.ask("SELECT 42"))) == [[b"42"]]


@contextlib.contextmanager
def sockets(lab: Lab, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(lab.gateway.listeners[LISTENER])) for _ in range(count)]


@pytest.fixture(autouse=True)
def _gives_back(attacked: Lab) -> Iterator[None]:
    """Whatever the attack was: the process lives, serves, and holds no more sockets than before."""
    eventually(lambda: descriptors(attacked) < 40)
    before = descriptors(attacked)
    yield
    assert attacked.gateway.process.running
    serves(attacked)
    # a process that reads long texts is started when the first of them comes, and has its pipes
    eventually(lambda: descriptors(attacked) <= before + 8)
    assert "Traceback" not in attacked.gateway.log.read_text()


def test_a_long_literal_costs_its_length_and_not_gigabytes(attacked: Lab) -> None:
    before = memory(attacked)
    with session(attacked) as s:
        for text in ("SELECT length('" + "x" * 8_000_000 + "')", 'SELECT 1 AS "' + "x" * 8_000_000 + '"'):
            assert not errors(s.say(query(text)))
    assert memory(attacked) - before < 300_000_000  # it was 150 bytes and more for each character


def test_a_fan_of_stars_is_refused(attacked: Lab) -> None:
    tables = ",".join(f"customers c{i}" for i in range(1000))
    with session(attacked) as s:
        found = s.ask("SELECT count(*) FROM (SELECT " + ",".join(["*"] * 1000) + f" FROM {tables}) x")
        assert "too much work" in errors(found)[0]["M"]


def test_prepared_statements_are_bounded_by_their_size(attacked: Lab) -> None:
    before = memory(attacked)
    padding = "/*" + "x" * 4_000_000 + "*/"
    with session(attacked) as s:
        last: list[tuple[str, bytes]] = []
        with contextlib.suppress(EOFError):
            for number in range(40):
                s.raw.send(parse(f"p{number}", f"SELECT {number} {padding}"), SYNC)
                while not last or last[-1][0] != "Z":
                    last.append(s.raw.message())
                last.clear()
        assert [e["C"] for e in errors(last)] == ["54000"]
    assert memory(attacked) - before < 600_000_000


def test_prepared_statements_are_bounded_by_their_number(attacked: Lab) -> None:
    with session(attacked) as s:
        found: list[tuple[str, bytes]] = []
        s.raw.send(*(parse(f"p{number}", "SELECT 1") for number in range(17_000)), SYNC)
        with contextlib.suppress(EOFError):
            while True:
                found.append(s.raw.message())
        assert [e["C"] for e in errors(found)] == ["54000"]


def test_a_message_above_the_limit_is_an_error_and_no_more(attacked: Lab) -> None:
    with session(attacked) as s:
        assert [e["C"] for e in errors(s.say(query("SELECT 1 /*" + "x" * 17_000_000 + "*/")))] == ["54000"]
        assert not errors(s.ask("SELECT 1"))


def test_copy_data_for_no_copy_in_very_small_pieces(attacked: Lab) -> None:
    with session(attacked) as s:
        found = s.say(query("SELECT count(*) FROM generate_series(1, 300000)") + copy_data(b"x") * 60_000)
        assert wire.rows(bytes_of(found)) == [[b"300000"]]


def test_connections_that_say_nothing_keep_nobody_out(attacked: Lab) -> None:
    with sockets(attacked, 200) as silent:
        for number, one in enumerate(silent):
            one.send(b"\0\0\0\x20"[: number % 5])
        serves(attacked)


def test_cancel_requests_by_the_thousand(attacked: Lab) -> None:
    for number in range(1000):
        with socket.create_connection(attacked.gateway.listeners[LISTENER]) as one:
            one.send(wire.request(80877102, struct.pack("!II", number, number)))
    serves(attacked)


def test_true_cancel_requests_do_not_pile_up_on_the_upstream(attacked: Lab) -> None:
    with session(attacked) as s:
        number, key = s.greeting.key
        request = wire.request(80877102, struct.pack("!I", number) + key)
        most = 0
        for _ in range(300):
            with socket.create_connection(attacked.gateway.listeners[LISTENER]) as one:
                one.send(request)
            most = max(most, descriptors(attacked))
        eventually(lambda: descriptors(attacked) < 60)
        s.ask("SELECT 1")  # cancelled or not: it is answered


@pytest.mark.parametrize("seed", range(4))
def test_bytes_that_are_no_startup_packet(attacked: Lab, seed: int) -> None:
    dice = random.Random(seed)
    good = wire.startup(user="analyst", database="shop")
    for _ in range(40):
        changed = bytearray(good)
        changed[dice.randrange(len(changed))] = dice.randrange(256)
        wrong = struct.pack("!I", dice.choice([0, 1, 7, 8, 10_001, 0x7FFFFFFF, 0xFFFFFFFF]))
        data = [
            dice.randbytes(dice.randrange(1, 64)),
            bytes(changed),
            wrong + dice.randbytes(30),
            good + wire.message("p", dice.randbytes(dice.randrange(50))) + dice.randbytes(20),
        ][seed]
        address = attacked.gateway.listeners[LISTENER]
        with socket.create_connection(address, timeout=20) as one, contextlib.suppress(OSError):
            one.sendall(data)
            one.shutdown(socket.SHUT_WR)
            while one.recv(65536):
                pass


def test_messages_in_any_order_and_with_any_bytes_wrong(attacked: Lab) -> None:
    dice = random.Random(7)
    known = [
        query("SELECT card FROM customers LIMIT 2"), parse("a", "SELECT $1::int", 23), bind("", "a", [b"1"]), execute(),
        describe("P"), SYNC, close("S", "a"), wire.call(1, [b"1"]), copy_data(b"x"), wire.COPY_DONE,
        wire.copy_fail("x"), wire.FLUSH, wire.message("p", b"x"), query("COPY customers TO STDOUT"),
    ]  # fmt: skip
    seen = b""
    for _ in range(60):
        data = bytearray(b"".join(dice.choice(known) for _ in range(dice.randrange(1, 20))))
        for _ in range(dice.randrange(3)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        with session(attacked) as s:
            with contextlib.suppress(OSError):
                s.raw.send(bytes(data))
                s.raw.socket.shutdown(socket.SHUT_WR)
            seen += s.raw.rest()
    assert b"4000 0000" not in seen


def _few(document: dict[str, Any]) -> None:
    document["limits"] = {"max_connections": 5, "auth_timeout": 3}


def test_those_who_have_not_logged_in_are_bounded_too() -> None:
    with Lab(tls="off", adjust=_few) as lab, sockets(lab, 5) as silent:
        eventually(lambda: descriptors(lab) >= 5 + len(silent))
        with socket.create_connection(lab.gateway.listeners[LISTENER], timeout=20) as one:
            answer = b""
            while data := one.recv(4096):
                answer += data
            assert [e["C"] for e in wire.errors(answer)] == ["53300"]
        for each in silent:
            each.close()
        eventually(lambda: _welcome(lab))


def _welcome(lab: Lab) -> bool:
    try:
        serves(lab)
    except (AssertionError, EOFError, OSError):
        return False
    return True

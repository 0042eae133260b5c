"""Prepared statements of the protocol through the gateway, packet by packet: ids, cursors, long data, id -1."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from scripts.support.lab import Lab
from tests.e2e.conftest import Address, BothMySQL
from tests.support import mysql_wire as wire
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e

LAST = 0xFFFFFFFF


class Raw:
    """A client that sends packets by hand behind PyMySQL's login."""

    def __init__(self, address: Address) -> None:
        self.connection = pymysql.connect(
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            database=address.database,
            ssl_ca=str(address.ca),
            autocommit=True,
        )

    def send(self, data: bytes) -> None:
        assert self.connection._sock is not None
        self.connection._sock.sendall(data)
        self.connection._next_seq_id = 1

    def read(self) -> bytes:
        """The next packet's payload, or its error."""
        try:
            return bytes(self.connection._read_packet()._data)
        except pymysql.err.MySQLError as error:
            return b"\xff" + struct.pack("<H", error.args[0])

    def ok(self) -> bytes:
        body = self.read()
        assert body[:1] == b"\0", body
        return body

    def prepare(self, sql: str) -> int:
        self.send(wire.prepare(sql))
        return self.prepared()

    def prepared(self) -> int:
        body = self.ok()
        statement, columns, parameters = struct.unpack_from("<IHH", body, 1)
        for count in (parameters, columns):
            for _ in range(count + (1 if count else 0)):  # PyMySQL wants old EOF packets
                self.read()
        return int(statement)

    def rows(self) -> tuple[list[bytes], int]:
        """The rows of a binary result up to its end, and the status there; of an opened cursor none."""
        count = self.read()[0]
        for _ in range(count):
            self.read()
        end = self.read()
        status = int.from_bytes(end[3:5], "little")
        return ([], status) if status & wire.CURSOR else self.fetched()

    def fetched(self) -> tuple[list[bytes], int]:
        out = []
        while (body := self.read())[:1] != b"\xfe":
            assert body[:1] == b"\0", body
            out.append(body)
        return out, int.from_bytes(body[3:5], "little")


def test_a_cursor_long_data_and_ids(both_mysql: BothMySQL) -> None:
    def script(address: Address) -> Any:
        seen: list[Any] = []
        raw = Raw(address)
        raw.connection.query("CREATE TABLE many (id int PRIMARY KEY, t longtext)")
        raw.connection.query("INSERT INTO many VALUES (1, 'one'), (2, 'two'), (3, NULL)")
        statement = raw.prepare("SELECT id, t FROM many ORDER BY id")
        raw.send(wire.execute(statement, flags=1))
        seen.append(raw.rows())
        for _ in range(2):
            raw.send(wire.fetch(statement, 2))
            rows, status = raw.fetched()
            seen.append((rows, bool(status & wire.LAST_ROW)))
        raw.send(wire.reset(statement))
        seen.append(raw.ok())
        raw.send(wire.fetch(statement, 1))
        seen.append(raw.read()[:3])
        raw.send(wire.close(statement))
        raw.send(wire.execute(statement))
        seen.append(raw.read()[:3])
        statement = raw.prepare("INSERT INTO many VALUES (4, ?)")
        for piece in ("x" * 100_000, "y" * 100_000, "\u20ac"):
            raw.send(wire.long_data(statement, 0, piece))
        raw.send(wire.command(0x17, struct.pack("<IBI", statement, 0, 1) + b"\0\1" + struct.pack("<H", 0xFC)))
        seen.append(raw.ok()[:3])
        with raw.connection.cursor() as cursor:
            cursor.execute("SELECT crc32(t), length(t) FROM many WHERE id = 4")
            seen.append(cursor.fetchall())
        raw.connection.close()
        return seen

    seen = both_mysql(script)
    assert [len(rows) for rows, _ in seen[1:3]] == [2, 1]
    assert seen[-1][0][1] == 200_003


def test_pipelined_prepare_and_execute_by_minus_one(both_mysql: BothMySQL) -> None:
    """What MariaDB's connectors send in one piece."""
    if both_mysql.flavour != "mariadb":
        pytest.skip("only MariaDB knows the id -1")

    def script(address: Address) -> Any:
        raw = Raw(address)
        raw.send(wire.prepare("SELECT ? + 1") + wire.execute(LAST, 41))
        raw.prepared()
        raw.connection._next_seq_id = 1
        rows, _ = raw.rows()
        raw.send(wire.prepare("SELECT nonsense FROM nowhere") + wire.execute(LAST))
        errors = [raw.read()[:3]]
        raw.connection._next_seq_id = 1
        errors.append(raw.read()[:3])
        raw.connection.close()
        return rows, errors

    rows, errors = both_mysql(script)
    assert len(rows) == 1
    assert errors[1] == b"\xff\xdb\x04"  # 1243: the failed one is no statement, and no older one is meant


def test_parameters_are_on_record(mysql_lab: Lab, both_mysql: BothMySQL) -> None:
    raw = Raw(both_mysql.through("admin", "shop"))
    statement = raw.prepare("SELECT city FROM customers WHERE name = ? AND id < ?")
    raw.send(wire.execute(statement, "marker-9f31", 7))
    raw.rows()
    raw.connection.close()
    (record,) = await_records(mysql_lab.gateway.state_dir, lambda r: "marker-9f31" in str(r.get("params")))
    assert (record["phase"], record["params"]) == ("execute", ["marker-9f31", "7"])
    assert record["reads"] == ["shop.customers"]


def test_masked_columns_in_binary_rows(mysql_lab: Lab, both_mysql: BothMySQL) -> None:
    with contextlib.closing(mysql_lab.server.connect()) as direct, direct.cursor() as cursor:
        cursor.execute("SELECT national_id FROM customers WHERE id = 1")
        found = cursor.fetchone()
        assert found is not None
        secret = found[0].encode()
    raw = Raw(both_mysql.through("analyst", "shop"))
    statement = raw.prepare("SELECT id, national_id, concat('x', national_id) FROM customers WHERE id = ?")
    for flags in (0, 1):
        raw.send(wire.execute(statement, 1, flags=flags))
        rows, status = raw.rows()
        if status & wire.CURSOR:
            raw.send(wire.fetch(statement, 10))
            rows, _ = raw.fetched()
        assert len(rows) == 1
        assert secret not in rows[0]
    raw.connection.close()


def test_ids_of_sql_prepare_are_no_ids_of_the_protocol(both_mysql: BothMySQL) -> None:
    raw = Raw(both_mysql.through("admin", "shop"))
    raw.connection.query("PREPARE s FROM 'SELECT 1'")
    for guess in range(1, 20):
        raw.send(wire.execute(guess))
        assert raw.read() == b"\xff\xdb\x04"
    raw.connection.close()

"""A server, or something between it and the gateway, that breaks the protocol: that session ends, the gateway goes on.

Attack rows 2 and 3. Someone in the middle answers marked statements in the server's place.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from scripts.support import mysql
from scripts.support.lab import Lab
from tests.support import mysql_wire as wire
from tests.support.journal import await_records
from tests.support.mysql_wire import packets

pytestmark = pytest.mark.e2e

MARK = b"what-a-lie"
HEAD = packets(1, b"\1", wire.column("a"))
LIES = {
    "number": wire.packet(7, wire.ok(info=MARK)),
    "length": b"\xff\xff\xff\1" + b"\xff" * 100,
    "nothing": wire.packet(1, b""),
    "columns": packets(1, b"\xfc\xff\xff"),
    "file": packets(1, b"\xfb/etc/passwd"),
    "progress": packets(1, b"\xff\xff\xff" + MARK),
    "row": HEAD + wire.packet(3, b""),
    "ends": HEAD + wire.packet(3, b"\xfe" + MARK),
    "gap": HEAD + wire.packet(9, wire.row(MARK)),
    "more": packets(1, wire.ok()) + wire.packet(2, wire.ok(info=MARK)),
    "cut": packets(1, b"\1")[:3],
}
CUT = ("cut", "length")  # after these it closes


class Middle:
    """Passes bytes between the gateway and the server, but for statements that hold `/*lie:NAME*/`."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                gateway, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._between, args=(gateway,), daemon=True).start()

    def _between(self, gateway: socket.socket) -> None:
        with gateway, socket.create_connection(("127.0.0.1", self._server)) as server, contextlib.suppress(OSError):
            while True:
                readable, _, _ = select.select([gateway, server], [], [], 60)
                for side in readable:
                    data = side.recv(65536)
                    if not data:
                        return
                    if side is server:
                        gateway.sendall(data)
                    elif b"/*lie:" in data:
                        name = data.partition(b"/*lie:")[2].partition(b"*/")[0].decode()
                        gateway.sendall(LIES[name])
                        if name in CUT:
                            return
                    else:
                        server.sendall(data)


@pytest.fixture(scope="module")
def between(mysql_installation: mysql.Installation) -> Iterator[Lab]:
    made: list[Middle] = []

    def adjust(document: dict[str, Any]) -> None:
        made.append(Middle(document["resources"][0]["port"]))
        document["resources"][0] |= {"port": made[0].port, "tls": {"mode": "off"}}

    with Lab(installation=mysql_installation, adjust=adjust) as lab:
        yield lab
    made[0].close()


def connect(lab: Lab) -> pymysql.Connection[Any]:
    return pymysql.connect(
        host=lab.gateway.host,
        port=lab.gateway.port,
        user="admin",
        password=lab.tokens["admin"],
        database="shop",
        ssl_ca=str(lab.gateway.ca_file),
        read_timeout=20,
        local_infile=True,
    )


@pytest.mark.parametrize("name", LIES)
def test_rows_2_and_3_a_lie_ends_its_session_only(between: Lab, name: str) -> None:
    with connect(between) as other:
        client = connect(between)
        text = f"SELECT 1 /*lie:{name}*/"
        with contextlib.closing(client), pytest.raises(pymysql.err.MySQLError) as caught:
            client.query(text)
        assert MARK.decode() not in str(caught.value)
        assert other.query("SELECT 1") == 1
    (command,) = await_records(between.gateway.state_dir, lambda r: r.get("text") == text)
    (response,) = await_records(
        between.gateway.state_dir,
        lambda r: r.get("t") == "response" and (r["s"], r["n"]) == (command["s"], command["n"]),
    )
    assert response["status"] == ("ok" if name == "more" else "lost")
    assert between.gateway.process.running


@pytest.mark.parametrize(
    "data",
    [
        wire.packet(3, b"\x03SELECT 1"),
        wire.packet(0, b""),
        b"\xff\xff\xff\0\x03" + b"x" * 100,
        wire.command(0x0E, b"x"),
        wire.command(0x17, struct.pack("<I", 1)),
        wire.command(0x19, b"\1"),
    ],
    ids=["number", "nothing", "half", "ping", "execute", "close"],
)
def test_rows_2_and_3_a_client_that_lies(between: Lab, data: bytes) -> None:
    with connect(between) as other:
        client = connect(between)
        assert client._sock is not None
        client._sock.sendall(data)
        with contextlib.closing(client):
            if len(data) > 100:
                client._sock.shutdown(socket.SHUT_RDWR)  # half a packet: nothing is to come
            else:
                while client._sock.recv(65536):
                    pass
        assert other.query("SELECT 1") == 1
    assert between.gateway.process.running

"""Load for a MySQL server, in a process of its own: one event loop over raw sockets, packets built beforehand.

Reads a JSON object a line from standard input, one for each run, and answers with one a line. The driver must not be
what is measured: after the login (PyMySQL's) a transaction is one `send` of bytes that are already there and as many
`recv` as the answer needs; the first answer is walked packet by packet, those that follow are counted.
"""

from __future__ import annotations

import json
import random
import selectors
import ssl
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types

from scripts.benchmarks.load import BenchError

SMALL = "SELECT c FROM bench_small WHERE id = {}"
PREPARED = "SELECT c FROM bench_small WHERE id = ?"
SMALL_ROWS = 100_000  # ids from this number on: all of the same width
_PACKETS = 2000  # built beforehand
_COM_QUERY, _COM_STMT_PREPARE, _COM_STMT_EXECUTE = b"\x03", b"\x16", b"\x17"
_LONGLONG = 8
_EOF, _ERR = 0xFE, 0xFF
_ERR_AT = 4  # behind the header of the first packet
_EOF_SIZE = 5  # bytes of an EOF packet's payload: the same at the end of each answer
_STALL_SECONDS = 20.0
_RSA_HOLDS = 200  # bytes that a usual key encrypts


def packet(payload: bytes) -> bytes:
    """The first packet of a command: three bytes of length, sequence number 0."""
    return struct.pack("<I", len(payload))[:3] + b"\0" + payload


class _InTheClear(pymysql.connections.Connection):  # type: ignore[misc]  # it ships no types
    """Sends its password as it is: a token does not fit into what RSA encrypts. For a listener without TLS only."""

    _secure = True


def connect(login: Mapping[str, Any]) -> Any:
    """Logged in, in autocommit mode."""
    tls = {"ssl": {"ca": login["ca"], "check_hostname": True}} if login["ca"] else {"ssl_disabled": True}
    clear = not login["ca"] and len(login["password"]) > _RSA_HOLDS
    return (_InTheClear if clear else pymysql.connections.Connection)(
        host=login["host"],
        port=login["port"],
        user=login["user"],
        password=login["password"],
        database=login["database"],
        connect_timeout=30,
        autocommit=True,
        **tls,
    )


class Answer:
    """Whether an answer is complete. The first one is walked: its second EOF packet ends it, OK and ERR end it at once.

    All answers to one client have the same length and the same end: those that follow are counted.
    """

    __slots__ = ("_data", "_end", "_ends", "_expected", "size")

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = 0
        self._expected = 0
        self._end = b""
        self.size = 0

    def start(self) -> None:
        self._data.clear()
        self._ends = 0
        self.size = 0

    def fed(self, data: bytes) -> bool:
        """Raises BenchError for an error of the server, and for an answer that is not like the first."""
        first = not self.size
        self.size += len(data)
        if self._expected:
            if first and len(data) > _ERR_AT and data[_ERR_AT] == _ERR:
                raise BenchError(f"the server says: {data[13:].decode(errors='replace')}")
            if self.size < self._expected:
                return False
            if self.size > self._expected or not data.endswith(self._end[-len(data) :]):
                raise BenchError("an answer that is not like the first one")
            return True
        if not self._walk(data):
            return False
        self._expected, self._end = self.size, data[-_EOF_SIZE:]
        return True

    def _walk(self, data: bytes) -> bool:
        self._data += data
        buffer, at, end = self._data, 0, len(self._data)
        done = False
        while end - at >= 5:
            length = buffer[at] | buffer[at + 1] << 8 | buffer[at + 2] << 16
            if end - at < 4 + length:
                break
            first = buffer[at + 4]
            if first == _ERR:
                raise BenchError(f"the server says: {buffer[at + 13 : at + 4 + length].decode(errors='replace')}")
            if first == _EOF and length < 9:
                self._ends += 1
                done = self._ends == 2
            elif first == 0 and buffer[at + 3] == 1:
                done = True  # OK: no result
            at += 4 + length
        if at:
            del buffer[:at]
        return done


def prepare(sock: Any, text: str) -> int:
    """The statement's id. The answer has a packet for the parameter, one for the column, and an EOF after each."""
    sock.sendall(packet(_COM_STMT_PREPARE + text.encode()))
    data = b""
    while True:
        data += sock.recv(65536)
        at, ends = 0, 0
        while len(data) - at >= 5:
            length = int.from_bytes(data[at : at + 3], "little")
            if len(data) - at < 4 + length:
                break
            if data[at + 4] == _ERR:
                raise BenchError(f"cannot be prepared: {data[at + 13 : at + 4 + length].decode(errors='replace')}")
            ends += data[at + 4] == _EOF and length < 9
            at += 4 + length
        if ends == 2:
            return int.from_bytes(data[5:9], "little")


def packets(mode: str, script: str | None, statement: int, source: random.Random, count: int = 1) -> list[bytes]:
    """What to send, in turns. In a script `{id}` is a row of the small table; with `{new}`, a number that was not there
    before, each of `count` statements is another text of the same length."""
    if script is not None and "{new}" in script:
        fresh = source.sample(range(10**8, 10**9), count)
        texts = (script.format(id=source.randrange(SMALL_ROWS, 2 * SMALL_ROWS), new=new) for new in fresh)
        return [packet(_COM_QUERY + text.encode()) for text in texts]
    if script is not None:
        return [packet(_COM_QUERY + script.encode())]
    ids = [source.randrange(SMALL_ROWS, 2 * SMALL_ROWS) for _ in range(_PACKETS)]
    if mode == "text":
        return [packet(_COM_QUERY + SMALL.format(number).encode()) for number in ids]
    head = _COM_STMT_EXECUTE + struct.pack("<IBI", statement, 0, 1) + b"\0\1" + struct.pack("<H", _LONGLONG)
    return [packet(head + struct.pack("<q", number)) for number in ids]


class Client:
    """One connection in the loop."""

    __slots__ = ("answer", "began", "left", "made", "sent", "sock", "texts")

    def __init__(self, spec: Mapping[str, Any], number: int) -> None:
        self.made = connect(spec["login"])
        self.sock = self.made._sock
        statement = prepare(self.sock, PREPARED) if spec["mode"] == "prepared" and not spec["script"] else 0
        self.left = spec["transactions"]
        # the same in each run, but for what must be new: what was sent before is known to the gateway
        seed = f"{number} {time.time_ns()}" if "{new}" in (spec["script"] or "") else number
        source = random.Random(seed)  # noqa: S311 - to be repeatable
        self.texts = packets(spec["mode"], spec["script"], statement, source, self.left)
        self.answer = Answer()
        self.sent = 0
        self.began = 0

    def send(self) -> None:
        self.answer.start()
        text = self.texts[self.sent % len(self.texts)]
        self.sent += 1
        self.began = time.perf_counter_ns()
        self.sock.sendall(text)

    def readable(self) -> bool:
        """Reads what is there; True when the answer is complete."""
        while True:
            try:
                data = self.sock.recv(262144)
            except (BlockingIOError, ssl.SSLWantReadError):
                return False
            if not data:
                raise BenchError("the connection was closed")
            if self.answer.fed(data):
                return True


def loop(clients: Sequence[Client]) -> list[int]:
    """All transactions of all clients; their latencies in microseconds."""
    latencies: list[int] = []
    if len(clients) == 1:
        _alone(clients[0], latencies)
        return latencies
    with selectors.DefaultSelector() as selector:
        for client in clients:
            client.sock.setblocking(False)
            selector.register(client.sock, selectors.EVENT_READ, client)
            client.send()
        busy = len(clients)
        while busy:
            ready = selector.select(_STALL_SECONDS)
            if not ready:
                raise BenchError(f"no answer within {_STALL_SECONDS:g} s")
            for key, _ in ready:
                client = key.data
                if not client.readable():
                    continue
                latencies.append((time.perf_counter_ns() - client.began) // 1000)
                client.left -= 1
                if client.left:
                    client.send()
                else:
                    selector.unregister(client.sock)
                    busy -= 1
    return latencies


def _alone(client: Client, latencies: list[int]) -> None:
    """One client needs no selector."""
    client.sock.settimeout(_STALL_SECONDS)
    while client.left:
        client.send()
        while not client.answer.fed(client.sock.recv(262144)):
            pass
        latencies.append((time.perf_counter_ns() - client.began) // 1000)
        client.left -= 1


def reconnecting(spec: Mapping[str, Any]) -> list[int]:
    """Each transaction on a connection of its own."""
    taken = []
    for _ in range(spec["transactions"]):
        began = time.perf_counter_ns()
        connection = connect(spec["login"])
        with connection.cursor() as cursor:
            cursor.execute(SMALL.format(SMALL_ROWS))
            cursor.fetchall()
        connection.close()
        taken.append((time.perf_counter_ns() - began) // 1000)
    return taken


def run(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for: `latencies`, `seconds` without the logins, and the driver's own CPU `cpu_s`."""
    if spec["reconnect"]:
        began, cpu = time.perf_counter(), time.process_time()
        latencies = reconnecting(spec)
        return {
            "latencies": latencies,
            "seconds": time.perf_counter() - began,
            "cpu_s": time.process_time() - cpu,
        }
    clients = [Client(spec, number) for number in range(spec["clients"])]
    try:
        began, cpu = time.perf_counter(), time.process_time()
        latencies = loop(clients)
        return {"latencies": latencies, "seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    finally:
        for client in clients:
            client.sock.close()
            client.made._sock = None  # nothing is left to say


def main() -> int:
    for line in sys.stdin:
        try:
            answer = run(json.loads(line))
        except (BenchError, OSError, pymysql.err.MySQLError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

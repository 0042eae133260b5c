"""A real client and a real server with a `MysqlSession` between them, before and without the rest of the gateway.

The login passes through as it is, but for the capabilities that the gateway does not offer; then a session stands
between the two sockets. One thread per connection, plain TCP.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

from protocols.mysql.judging import AnalysisCache

from protocols.contract import Analysis, Decision, MaskRule, Outcome, Side
from protocols.mysql.capabilities import OWN, SHARED, Capability
from protocols.mysql.catalog import Catalog
from protocols.mysql.limits import Limits
from protocols.mysql.session import MysqlSession
from protocols.mysql.state import SessionState
from tests.support.mysql_talk import FakePort, anything


class Bridge:
    """Listens on `port` of loopback. `ports` and `sessions` are those of the connections so far, in their order."""

    def __init__(
        self,
        upstream: int,
        snapshot: Catalog,
        decide: Callable[[Analysis], Decision] = anything,
        *,
        masks: Sequence[MaskRule] = (),
        local_files: bool = False,
        approve: bool = True,
        charset: str = "utf8mb4",
        sql_mode: frozenset[str] = frozenset(),
        **limits: int,
    ) -> None:
        self._upstream = upstream
        self._snapshot = snapshot
        self._decide = decide
        self._masks = masks
        self._allowed = SHARED | OWN | (Capability.LOCAL_FILES if local_files else Capability(0))
        self._approve = approve
        self._state = (charset, sql_mode)
        self._limits = Limits(**limits)
        self._cache = AnalysisCache()
        self.ports: list[FakePort] = []
        self.sessions: list[MysqlSession] = []
        self.failures: list[BaseException] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.close()
        for thread in self._threads[1:]:
            thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._connection, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connection(self, client: socket.socket) -> None:
        try:
            with client, socket.create_connection(("127.0.0.1", self._upstream)) as server:
                for side in (client, server):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._relay(client, server)
        except OSError:
            pass  # one of them has closed
        except BaseException as e:
            self.failures.append(e)
            raise

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        session = self._login(client, server)
        if session is None:
            return
        while not session.ended:
            readable, _, _ = select.select([client, server], [], [], 30)
            if not readable:
                return
            for side in readable:
                data = side.recv(65536)
                if not data:
                    session.lost(Side.CLIENT if side is client else Side.UPSTREAM)
                else:
                    (session.client if side is client else session.server)(data)
                if session.held is not None:
                    session.resume(Outcome.APPROVED if self._approve else Outcome.DENIED, "no")
                if session.up:
                    server.sendall(b"".join(session.up))
                    session.up.clear()
                if session.down:
                    client.sendall(b"".join(session.down))
                    session.down.clear()

    def _login(self, client: socket.socket, server: socket.socket) -> MysqlSession | None:
        greeting = bytearray(_packet(server))
        at = greeting.index(0, 5) + 1 + 4 + 8 + 1
        pid = int.from_bytes(greeting[at - 13 : at - 9], "little")
        mariadb = b"MariaDB" in greeting
        offered = (
            int.from_bytes(greeting[at : at + 2], "little") | int.from_bytes(greeting[at + 5 : at + 7], "little") << 16
        )
        offered &= int(self._allowed)
        greeting[at : at + 2] = (offered & 0xFFFF).to_bytes(2, "little")
        greeting[at + 5 : at + 7] = (offered >> 16).to_bytes(2, "little")
        greeting[at + 14 : at + 18] = bytes(4)  # MariaDB's extended capabilities
        client.sendall(greeting)
        response = _packet(client)
        claimed = int.from_bytes(response[4:8], "little")
        server.sendall(response)
        database = _database(response, claimed)
        while True:
            answer = _packet(server)
            client.sendall(answer)
            if answer[4] == 0:
                break
            if answer[4] == 0xFF:
                return None
            if answer[4:] == b"\x01\x03":
                continue  # caching_sha2_password found it in its cache: OK follows
            server.sendall(_packet(client))
        port = FakePort(self._decide, self._masks)
        port.snapshot = self._snapshot
        charset, sql_mode = self._state
        flavour = "mariadb" if mariadb else "mysql"
        state = SessionState(
            flavour=flavour,
            version=self._snapshot.server_version,
            charset=charset,
            sql_mode=sql_mode,
            database=database or None,
        )
        state.started()
        session = MysqlSession(f"s{pid}", port, state, self._cache, self._limits, Capability(offered & claimed), pid)
        self.ports.append(port)
        self.sessions.append(session)
        return session


def _packet(side: socket.socket) -> bytes:
    def take(n: int) -> bytes:
        data = b""
        while len(data) < n:
            more = side.recv(n - len(data))
            if not more:
                raise ConnectionResetError("closed during login")
            data += more
        return data

    header = take(4)
    return header + take(int.from_bytes(header[:3], "little"))


def _database(response: bytes, claimed: int) -> str:
    """The database of a HandshakeResponse41."""
    if not claimed & Capability.CONNECT_WITH_DB:
        return ""
    pos = response.index(0, 36) + 1
    length = response[pos]  # of the authentication response; every client here says it in one byte
    pos += 1 + length
    return response[pos : response.index(0, pos)].decode()


@contextlib.contextmanager
def bridge(
    upstream: int, snapshot: Catalog, decide: Callable[[Analysis], Decision] = anything, **more: object
) -> Iterator[Bridge]:
    made = Bridge(upstream, snapshot, decide, **more)  # type: ignore[arg-type]  # passed on as they are
    try:
        yield made
    finally:
        made.close()
    assert not made.failures

"""The caller's side of the control API, for the command line. Plain blocking sockets."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

from guard.control import wire
from guard.control.wire import ControlError, Request, Unreachable

TIMEOUT_S = 90.0  # longer than the gateway gives a call: its own error says more than ours


class ControlClient:
    """One connection, made with the first call. Use it in a `with` block."""

    def __init__(self, path: Path, token: str, timeout: float = TIMEOUT_S) -> None:
        self._path = path
        self._token = token
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._number = 0
        self._buffer = b""

    def call(self, method: str, **params: Any) -> Any:
        """The result of one call; parameters that are None are left out. Raises ControlError or Unreachable."""
        self._number += 1
        given = {name: value for name, value in params.items() if value is not None}
        line = wire.encode_request(Request(self._number, self._token, method, given))
        try:
            connection = self._connected()
            with contextlib.suppress(BrokenPipeError):  # the gateway hung up before it read us, and may have said why
                connection.sendall(line)
            return wire.decode_answer(self._read_line(connection))
        except TimeoutError:
            self.close()
            raise Unreachable(f"the gateway at {self._path} does not answer within {self._timeout:g} s") from None
        except OSError as error:
            self.close()
            raise Unreachable(f"cannot reach a gateway at {self._path}: {error.strerror or error}") from None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(self._timeout)
                with wire.socket_address(self._path) as address:
                    connection.connect(address)
            except BaseException:
                connection.close()
                raise
            self._socket = connection
        return self._socket

    def _read_line(self, connection: socket.socket) -> bytes:
        pieces, size = [self._buffer], len(self._buffer)
        while b"\n" not in pieces[-1]:
            piece = connection.recv(256 * 1024)
            if not piece:
                raise Unreachable(f"the gateway at {self._path} closed the connection")
            size += len(piece)
            if size > wire.MAX_ANSWER:
                raise Unreachable("what answers at the socket is no gateway")
            pieces.append(piece)
        line, _, self._buffer = b"".join(pieces).partition(b"\n")
        return line

    def close(self) -> None:
        """Hang up; a later call connects again."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


__all__ = ["ControlClient", "ControlError", "Unreachable"]

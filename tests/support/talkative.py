"""Programs that run while a test looks on, and what a forwarded port leads to."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Ended with the block."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def printed(process: subprocess.Popen[bytes], wanted: bytes) -> bytes:
    """What it prints, up to a text. The test's own timeout ends a wait for nothing."""
    assert process.stdout is not None
    seen = b""
    while wanted not in seen:
        data = os.read(process.stdout.fileno(), 4096)
        assert data, seen
        seen += data
    return seen


@contextmanager
def echo_server() -> Iterator[int]:
    """A port that answers all that it got until the end of it, backwards."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    data = b""
                    while more := connection.recv(65536):
                        data += more
                    connection.sendall(data[::-1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)

"""An https server with what package managers ask for: a Python index, an npm registry's answers, a git repository."""

from __future__ import annotations

import hashlib
import os
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from scripts.support.tls import Authority

LOCAL_POLICY = """
version: 1
name: local
description: everything on this machine
rules:
  - {id: all, description: reading and writing, allow: {effects: [http.read, http.write], http: {hosts: [localhost]}}}
"""


@contextmanager
def packages(authority: Authority, root: Path) -> Iterator[str]:
    """Its URL, `https://localhost:PORT`. What it serves is put into `root`."""
    wheel = root / "packages" / "tiny_thing-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_thing.py", "")
        archive.writestr("tiny_thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n")
        archive.writestr("tiny_thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_thing-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    index = root / "simple" / "tiny-thing"
    index.mkdir(parents=True)
    (index / "index.html").write_text(
        f'<a href="/packages/{wheel.name}#sha256={digest}">{wheel.name}</a>', encoding="utf-8"
    )
    repository = root / "repo.git"
    source = root / "source"
    git = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for words in (
        ["init", "-q", str(source)],
        ["-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "one"],
        ["clone", "-q", "--bare", str(source), str(repository)],
        ["-C", str(repository), "update-server-info"],
    ):
        subprocess.run(["git", *words], check=True, env=git, capture_output=True)
    (root / "-").mkdir()
    (root / "-" / "ping").write_text("{}")
    (root / "hello.json").write_text('{"hello": "world"}')

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.0"
        timeout = 30

        def translate_path(self, path: str) -> str:
            return str(root) + path.partition("?")[0]

        def log_message(self, format: str, *args: object) -> None:
            """The gateway has them on record."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    pair = authority.server("site", hosts=("localhost",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)

"""The HTTPS half of the local OIDC issuer: serves the documents that `scripts.support.issuer` writes into a folder.

Run as `python -m scripts.support.issuer_server FOLDER`. The folder holds `server.pem`, `server.key`, `documents/` (one
JSON file for each path, `/` written as `~`) and `behaviour.json` (`{"status": 200, "delay": 0.0}`: how to misbehave).
It writes the address it got to `address` and a line for each request to `requests.log`.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        super().__init__(("127.0.0.1", 0), _Handler)
        # the handshake happens in the request's own thread, so that one silent client cannot stop the others
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Server

    def do_GET(self) -> None:
        folder = self.server.folder
        with (folder / "requests.log").open("a") as log:
            log.write(f"{self.path}\n")
        behaviour = json.loads((folder / "behaviour.json").read_bytes())
        time.sleep(behaviour["delay"])
        document = folder / "documents" / self.path.strip("/").replace("/", "~")
        status, body = behaviour["status"], b'{"error": "not found"}'
        if status == 200 and document.is_file():
            body = document.read_bytes()
        elif status == 200:
            status = 404
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are in `requests.log`; the process log is for errors."""


def main(folder: Path) -> None:
    server = _Server(folder)
    address = folder / "address.new"
    address.write_text(f"127.0.0.1:{server.server_port}")
    address.rename(folder / "address")
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

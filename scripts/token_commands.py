"""`sluicegate token`: the client's side. Prints the token of this moment, or keeps one fresh in front of clients."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import ssl
import sys
import urllib.parse
from pathlib import Path
from typing import Any

from scripts.token_proxy import TokenProxy, Upstream
from scripts.token_source import ENVIRONMENT, TokenError, TokenSource

_SHOW = f"""
examples:
  sluicegate token --file /run/oidc/token
  export PGPASSWORD="$(sluicegate token --command 'gcloud auth print-identity-token')"

the token comes from --file, --command or ${ENVIRONMENT}. one that has expired is not printed.
"""
_SERVE = f"""
examples:
  sluicegate token serve --gateway https://gateway:8080 --ca gateway-ca.pem --file /run/oidc/token &
  sluicegate token serve --gateway http://127.0.0.1:8080 --command 'gcloud auth print-identity-token' > proxy.env

prints lines for a shell (`HTTPS_PROXY=...`) once it listens, on 127.0.0.1 only. the password in them is made up for
this run and opens nothing but this proxy. the token comes from --file (read again when it expires), --command (run
again then) or ${ENVIRONMENT}.
"""


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "token",
        help="the client's token: print it, or keep a fresh one in front of clients",
        description="without a verb: print the token that a client shows to the gateway",
        usage="%(prog)s [-h] [--file FILE | --command COMMAND] [VERB ...]",
        epilog=_SHOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _source(parser)
    parser.set_defaults(run=show)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", prog=parser.prog)
    serve = verbs.add_parser(
        "serve",
        help="a proxy on loopback that adds a fresh token",
        description="a proxy on loopback that adds a fresh token to what clients send to the gateway",
        epilog=_SERVE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _source(serve, default=argparse.SUPPRESS)  # what was said before the verb counts, too
    serve.add_argument("--gateway", required=True, metavar="URL", help="the gateway's proxy listener")
    serve.add_argument("--ca", type=Path, metavar="FILE", help="CA (PEM) of an https gateway; left out: the system's")
    serve.add_argument(
        "--port", type=_port, default=0, metavar="PORT", help="port to listen on; left out: any that is free"
    )
    serve.add_argument(
        "--no-password", action="store_true", help="for clients that cannot send one: every local user may use it then"
    )
    serve.set_defaults(run=run_serve)


def _port(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port, 0 to 65535, not `{text}`")
    return int(text)


def _source(parser: argparse.ArgumentParser, default: Any = None) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--file", type=Path, default=default, metavar="FILE", help="read the token from here")
    # not `command`: that is what the whole command line was asked for
    where.add_argument(
        "--command",
        dest="program",
        default="" if default is None else default,
        metavar="COMMAND",
        help="run this for a token (no shell)",
    )


def show(args: argparse.Namespace) -> int:
    try:
        found = TokenSource(file=args.file, command=args.program).get()
    except (TokenError, ValueError) as e:
        print(f"sluicegate token: {e}", file=sys.stderr)
        return 1
    print(found.token)
    return 0


def run_serve(args: argparse.Namespace) -> int:
    try:
        upstream = _upstream(args.gateway, args.ca)
        source = TokenSource(file=args.file, command=args.program)
    except ValueError as e:
        print(f"sluicegate token serve: {e}", file=sys.stderr)
        return 2
    password = "" if args.no_password else secrets.token_urlsafe(24)
    try:
        asyncio.run(_serve(upstream, source, password, args.port))
    except OSError as e:
        print(f"sluicegate token serve: port {args.port}: {e.strerror or e}", file=sys.stderr)
        return 1
    return 0


def _upstream(url: str, ca: Path | None) -> Upstream:
    """Raises ValueError for what is no address of a proxy, and for a CA file that cannot be read."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.path not in ("", "/"):
        raise ValueError("`--gateway` is http://HOST:PORT or https://HOST:PORT, without a user")
    tls = None
    if parts.scheme == "https":
        tls = _trust(ca)
    elif ca is not None:
        raise ValueError("`--ca` is for an https gateway")
    return Upstream(parts.hostname, parts.port or (443 if tls else 8080), tls)


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca) if ca is not None else None)
    except OSError as e:  # ssl.SSLError is one: a file without a certificate
        raise ValueError(f"`{ca}` cannot be read as a CA: {e.strerror or e}") from None


async def _serve(upstream: Upstream, source: TokenSource, password: str, port: int) -> None:
    proxy = TokenProxy(upstream, source, password)
    found = await proxy.start(port)
    address = f"http://{f'ci:{password}@' if password else ''}127.0.0.1:{found}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        print(f"{name}={address}")
    sys.stdout.flush()
    await proxy.serve()

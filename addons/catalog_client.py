"""Drives a protocol's `CatalogSource`: the gateway's own connection that reads a resource's names, nothing else."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from addons.own import OwnConnection
from protocols.contract import (
    CatalogError,
    CatalogSnapshot,
    CatalogSource,
    Credential,
    CredentialRefused,
    TlsNotOffered,
    UpstreamLogin,
)
from protocols.registry import PROTOCOLS, WireProtocol

__all__ = ["CatalogClient", "CatalogError", "fetch_dsn"]

_NONCE = 32  # random bytes that a login may use


class CatalogClient:
    """One connection. Not for concurrent use; any failure closes it. Each question has `login.timeout` seconds."""

    def __init__(self, source: CatalogSource, tls: ssl.SSLContext | None, server_name: str) -> None:
        self._source = source
        self._own = OwnConnection(tls, server_name)
        self._timeout = 0.0

    async def connect(self, host: str, port: int, login: UpstreamLogin) -> None:
        """Raises `CatalogError`; `CredentialRefused` where the server does not take the credential."""
        self._timeout = login.timeout
        try:
            await self._own.open(host, port, login.timeout)
            await self._own.run(self._source.log_in(login), login.timeout)
        except (CatalogError, CredentialRefused):
            raise
        except Exception as e:
            raise CatalogError(f"the metadata connection failed: {_why(e)}") from e

    async def version(self) -> str:
        """Changes whenever a name may mean something else. Raises `CatalogError`."""
        try:
            return await self._own.run(self._source.version(), self._timeout, each=True)
        except CatalogError:
            raise
        except Exception as e:
            raise CatalogError(f"a catalog look-up failed: {_why(e)}") from e

    async def load(self) -> CatalogSnapshot:
        """The whole snapshot, built in a thread. Raises `CatalogError`."""
        try:
            build = await self._own.run(self._source.load(), self._timeout, each=True)
        except CatalogError:
            raise
        except Exception as e:
            raise CatalogError(f"a catalog look-up failed: {_why(e)}") from e
        try:
            return await asyncio.to_thread(build)
        except Exception as e:
            raise CatalogError(f"the catalog cannot be understood: {type(e).__name__}: {e}") from e

    @property
    def closed(self) -> bool:
        return self._own.closed

    def close(self) -> None:
        self._own.close()


def new_login(credential: Credential, database: str, tls: bool, timeout: float) -> UpstreamLogin:
    """With fresh randomness: one for each connection."""
    return UpstreamLogin(credential, database, tls, os.urandom(_NONCE), timeout)


def _why(error: Exception) -> str:
    return str(error.__cause__ or error) or type(error).__name__


# ---------------------------------------------------------------- a catalog by URL, for the command line


async def fetch_dsn(dsn: str, bound: float = 10.0) -> CatalogSnapshot:
    """The catalog behind `SCHEME://user:password@host:port/database?sslmode=...&sslrootcert=...`.

    SCHEME says the protocol. TLS is said as libpq does (`sslmode`, `sslrootcert`, `sslcert`, `sslkey`) or as MySQL's
    clients do (`ssl-mode`, `ssl-ca`, `ssl-cert`, `ssl-key`); without a word it is `prefer`. `host` may be a parameter,
    and then the path of a socket, or of a folder that has one for this port. A password that is not in the URL is
    taken from the environment variable of the protocol's own clients. Raises `CatalogError`, also for other DSNs.
    """
    protocol, url = _protocol(dsn)
    options = {k.replace("_", "-"): v for k, v in parse_qsl(url.query)}
    user = unquote(url.username or options.get("user", ""))
    password = unquote(url.password or "") or options.get("password", os.environ.get(protocol.password_variable, ""))
    database = unquote(url.path.lstrip("/")) or options.get("dbname", "")
    try:
        port = url.port or int(options.get("port", protocol.default_port))
        host = options.get("host") or url.hostname or "127.0.0.1"
        address = _socket(host, port) if host.startswith("/") else host
        mode = _mode(options)
        if mode == "prefer" and address is not host:
            mode = "off"  # nobody listens in on a socket of this machine
        context = None if mode == "off" else _context(options, mode)
    except (ValueError, OSError) as e:
        raise CatalogError(f"a DSN that cannot be used: {e}") from e

    async def fetch(context: ssl.SSLContext | None) -> CatalogSnapshot:
        client = CatalogClient(protocol.catalog_source(), context, host)
        try:
            login = new_login(Credential(user, password), database, context is not None, bound)
            await client.connect(address, port, login)
            return await client.load()
        except CredentialRefused as e:
            raise CatalogError(f"the metadata connection failed: {_why(e)}") from e
        finally:
            client.close()

    try:
        return await fetch(context)
    except CatalogError as e:
        if mode == "prefer" and isinstance(e.__cause__, TlsNotOffered):
            return await fetch(None)
        raise


def _protocol(dsn: str) -> tuple[WireProtocol, SplitResult]:
    try:
        url = urlsplit(dsn)
    except ValueError as e:
        raise CatalogError(f"a DSN that cannot be read: {e}") from e
    for protocol in PROTOCOLS.values():
        if url.scheme in protocol.dsn_schemes:
            return protocol, url
    known = ", ".join(p.dsn_schemes[0] for p in PROTOCOLS.values())
    raise CatalogError(f"a DSN looks like SCHEME://user:password@host:port/database, SCHEME one of: {known}")


def _socket(host: str, port: int) -> str:
    path = Path(host)
    if not path.is_dir():
        return host
    found = sorted(p for p in path.iterdir() if p.is_socket() and p.suffix == f".{port}")
    if len(found) != 1:
        raise ValueError(f"{len(found)} sockets for port {port} in `{host}`: name the socket itself")
    return str(found[0])


# the words of libpq and of MySQL's clients for one thing
_MODES = {
    "disable": "off",
    "disabled": "off",
    "allow": "off",
    "prefer": "prefer",
    "preferred": "prefer",
    "require": "require",
    "required": "require",
    "verify-ca": "verify-ca",
    "verify-full": "verify-full",
    "verify-identity": "verify-full",
}


def _mode(options: dict[str, str]) -> str:
    """Raises ValueError for a word that is not known: no TLS by a slip of the pen."""
    word = (options.get("sslmode") or options.get("ssl-mode") or "prefer").lower().replace("_", "-")
    mode = _MODES.get(word)
    if mode is None:
        raise ValueError(f"`{word}` is no TLS mode: {', '.join(sorted(_MODES))}")
    return mode


def _context(options: dict[str, str], mode: str) -> ssl.SSLContext:
    ca = options.get("sslrootcert") or options.get("ssl-ca")
    certificate = options.get("sslcert") or options.get("ssl-cert")
    context = ssl.create_default_context(cafile=ca)
    if mode != "verify-full":
        context.check_hostname = False
    if mode in ("prefer", "require") and ca is None:
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, options.get("sslkey") or options.get("ssl-key"))
    return context

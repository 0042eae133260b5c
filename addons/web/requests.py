"""Where a request goes, and what of it: hop-by-hop fields, tokens and identities of the client's end here."""

from __future__ import annotations

from functools import lru_cache

from mitmproxy import connection, http

from addons.web.answers import Answers
from addons.web.base import pairs
from addons.web.port import clone
from protocols.http import syntax
from protocols.http.analysis import Request
from protocols.http.headers import (
    HOP_BY_HOP,
    Header,
    bearer,
    folded,
    is_secret,
    named_by_connection,
    names_somebody,
)
from protocols.http.targets import BadTarget, Target, read_target, split_authority

_USUAL = 64  # characters of a name that is worth remembering
_IN_PARTS = ("range", "if-range", "request-range", "a-im")
_NOT_OURS = HOP_BY_HOP | {"expect"}  # also where they are written with `_`


def _ends_here(lower: str) -> bool:
    """Whether a client's header is for nobody behind the gateway."""
    return _usual(lower) if len(lower) <= _USUAL else _look(lower)


def _look(lower: str) -> bool:
    name = folded(lower)
    return lower in _NOT_OURS or name in _NOT_OURS or names_somebody(name)


_usual = lru_cache(maxsize=4096)(_look)  # clients say the same names with each request


def _openable(accepted: str) -> str:
    """Of the codings that a client takes those that can be opened."""
    names = [clause.partition(";")[0].strip().lower() for clause in accepted.split(",")]
    return ", ".join(name for name in names if name in ("gzip", "br", "zstd", "deflate")) or "identity"


class Requests(Answers):
    """See `addons.web.port.Exchange`."""

    def _read(self, request: http.Request) -> None:
        """Takes from the request what nobody behind us may see, and finds out where it goes. Raises BadTarget."""
        headers, forward = request.headers, self.gate.forward_proxy
        fields = headers.fields
        self.token = bearer(headers.get("proxy-authorization" if forward else "authorization", ""))
        http_auth = self.gate.resource.http_auth
        own = folded(http_auth.header) if http_auth.kind == "header" else ""
        upgrade = headers.get("upgrade", "").lower()
        named = named_by_connection(headers.get_all("connection"))
        self._closes = "close" in named
        kept: list[tuple[bytes, bytes]] = []
        for field in fields:
            name = field[0].decode("utf-8", "surrogateescape")
            lower = name.lower()
            if lower in named or _ends_here(lower):
                continue
            if not forward and (lower == "authorization" or (lower[:1] == own[:1] and folded(lower) == own)):
                continue  # the upstream would have two credentials to choose from, and one is not ours
            if is_secret(lower):
                self._withheld.append((name, field[1].decode("utf-8", "surrogateescape")))
            else:
                kept.append(field)
        headers.fields = tuple(kept)
        if request.method.upper() == "CONNECT":
            return
        syntax.check(request.data.method, request.data.path, fields)
        self.upgrade = upgrade if upgrade in self.gate.upgrades else ""
        if self.upgrade == "websocket":
            headers.pop("sec-websocket-extensions", None)  # compressed messages could not be read
        self.target = self._targets(request)

    def _targets(self, request: http.Request) -> Target:
        host, port = self._destination(request)
        return read_target(request.path, host, port)

    def _destination(self, request: http.Request) -> tuple[str, int]:
        """Host and port, from wherever the client named them: all places must agree. Raises BadTarget."""
        resource = self.gate.resource
        named = [text for text in (request.headers.get("host", ""), request.authority) if text]
        if not self.gate.forward_proxy:
            self.scheme = "http" if resource.tls.mode == "off" else "https"
            if len({split_authority(text, 0) for text in named}) > 1:
                raise BadTarget("two different hosts in one request")
            return resource.host or "", resource.port
        if self._tunnelled is not None:
            self.scheme = "https" if self.gate.client.tls_established else "http"
            found = self._tunnelled
            sni = self.gate.client.sni
            if self.scheme == "https" and sni and split_authority(sni, found[1])[0] != found[0]:
                raise BadTarget("the TLS server name is another than the tunnel's")
        else:
            self.scheme = "http"
            if request.scheme == "https":
                raise BadTarget("https through a proxy needs CONNECT")
            if not named:
                raise BadTarget("the request does not say where it goes")
            found = split_authority(request.authority or named[0], 80)
            if request.host and split_authority(request.host, request.port) != found:
                raise BadTarget("two different hosts in one request")
        # in a tunnel to another port a client may leave the port out
        default = found[1] if self._tunnelled is not None else 80
        if any(split_authority(text, default) != found for text in named):
            raise BadTarget("the Host header names another host than the request")
        return found

    def _as_request(self) -> Request:
        assert self.target is not None
        headers = tuple(pairs(self.request.headers))
        return Request(self.request.method.upper(), self.scheme, self.target, headers, self.upgrade)

    def _identity_headers(self) -> list[Header]:
        """Who the upstream is to act for."""
        return []

    # ------------------------------------------------------------ what goes upstream

    def outgoing(self, request: http.Request, server: connection.Server) -> http.Request:
        assert self.target is not None
        sent = clone(request)
        for name, value in (*self._withheld, *self._credential, *self._identity_headers()):
            sent.headers.add(name, value)
        if self.upgrade:
            sent.headers["connection"] = "Upgrade"
            sent.headers["upgrade"] = self.upgrade
        if self._mask_wanted():
            for name in _IN_PARTS:
                sent.headers.pop(name, None)  # a part of an answer cannot be judged
            sent.headers["accept-encoding"] = _openable(request.headers.get("accept-encoding", ""))
        if self._streaming and "content-length" not in sent.headers and server.alpn != b"h2":
            sent.headers["transfer-encoding"] = "chunked"
        host = self.target.host
        if not self.gate.forward_proxy:
            host = self.gate.resource.tls.server_name or host
        default = 80 if self.scheme == "http" else 443
        authority = f"[{host}]" if ":" in host else host
        authority = authority if self.target.port == default else f"{authority}:{self.target.port}"
        sent.scheme = self.scheme
        # one place says where it goes, and it is ours: an absolute target would overrule it (RFC 9112 section 3.2.2)
        if request.is_http2:
            sent.authority = authority
            sent.headers.pop("host", None)
        else:
            sent.authority = ""
            sent.headers["host"] = authority
        return sent

    def address(self) -> tuple[str, int, bool]:
        assert self.target is not None
        return self.target.host, self.target.port, self.scheme == "https"

    def reaches(self, server: connection.Server) -> bool:
        if not isinstance(server, connection.Server) or self.target is None:
            return False
        logical = self.gate.opened.get(server.id, server.address)
        return logical == (self.target.host, self.target.port) and server.tls == (self.scheme == "https")

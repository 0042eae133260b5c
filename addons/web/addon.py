"""HTTP listeners: mitmproxy's hooks that are ours, TLS with both sides, and one gate for each client connection."""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING, Any, cast

from mitmproxy import connection, http, tls
from mitmproxy.proxy import commands, context, events, layer, server_hooks
from mitmproxy.proxy.layers import tls as tls_layers
from mitmproxy.proxy.layers.http import HTTPMode
from OpenSSL import SSL

from addons import runtime, takeover
from addons.fail_closed import closed
from addons.web.gate import HttpGate
from addons.web.hooks import QuickHooks
from addons.web.layer import GuardedLayer, Inner
from guard.config.schema import ResourceConfig
from protocols.registry import PROTOCOLS

if TYPE_CHECKING:
    from addons.runtime import Runtime

log = logging.getLogger("sluicegate.http")

_HOST_FLAGS = 0x4 | 0x20  # X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
_H2, _H1 = b"h2", b"http/1.1"
_UPSTREAMS = 1000  # connections to one server that a client connection may have: each watch can need one

_HANDSHAKE = b"\x16"  # the first byte of a TLS connection
_TOLD = (
    b"this listener speaks TLS only: use https:// in its address, and have the token revoked that was sent in clear\n"
)
_IN_TLS = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
    % (
        len(_TOLD),
        _TOLD,
    )
)

_gates: dict[str, HttpGate] = {}


class HttpFront(layer.Layer):
    """The first layer of an HTTP listener: TLS or not, then the guarded HTTP layer."""

    def __init__(self, context: context.Context, protocol: str, listener: str) -> None:
        super().__init__(context)
        self._protocol = protocol
        self._listener = listener
        self._child: layer.Layer | None = None
        self.gate: HttpGate | None = None

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if self._child is not None:
            yield from self._child.handle_event(event)
        elif isinstance(event, events.Start):
            if not self._begin():
                yield commands.CloseConnection(self.context.client)
        elif isinstance(event, events.DataReceived):
            child = self._choose(event.data)
            if child is None:
                if event.data[:1] != _HANDSHAKE:
                    yield commands.SendData(self.context.client, _IN_TLS)
                yield commands.CloseConnection(self.context.client)
                return
            self._child = child
            yield from child.handle_event(events.Start())
            yield from child.handle_event(event)
        elif isinstance(event, events.ConnectionClosed):
            yield commands.CloseConnection(self.context.client)

    def _begin(self) -> bool:
        current = runtime.current()
        gate = current.http_gate(self._protocol, self._listener, self.context.client) if current is not None else None
        if gate is None:
            return False
        handler = takeover.handler_of(self.context.client.id)
        takeover.disarm_timeout(handler)
        takeover.widen(handler, _UPSTREAMS)
        cast(Any, handler).handle_hook = QuickHooks(handler)
        self.gate = _gates[self.context.client.id] = gate
        return gate.arrive()

    def _choose(self, data: bytes) -> layer.Layer | None:
        gate = self.gate
        if gate is None:
            return None
        secure = data[:1] == _HANDSHAKE
        mode = gate.listener.tls.mode
        if secure and mode == "off":
            gate.refuse_connection("TLS is not offered here: name http:// in the address")
            return None
        if not secure and mode == "required":
            gate.refuse_connection("TLS is required here; what came in clear may have held a token: have it revoked")
            return None
        http_mode = HTTPMode.regular
        if not gate.forward_proxy:
            http_mode = HTTPMode.transparent
            resource = gate.resource
            self.context.server.address = (cast(str, resource.host), resource.port)
            self.context.server.tls = resource.tls.mode != "off"
            self.context.server.sni = resource.tls.server_name or resource.host
        if not secure:
            return GuardedLayer(self.context, http_mode, gate)
        outer = tls_layers.ClientTLSLayer(self.context)
        cast(Any, outer).child_layer = GuardedLayer(self.context.fork(), http_mode, gate)
        return outer


def _gate_of(client: connection.Client) -> HttpGate | None:
    return _gates.get(client.id)


def _no_server(data: server_hooks.ServerConnectionHookData) -> None:
    data.server.error = "refused by the gateway"


def _no_tls(data: tls.TlsData) -> None:
    data.ssl_conn = None


class HttpAddon:
    """The hooks of HTTP listeners."""

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """mitmweb can send a flow again, edited: that would be a request that nobody has judged."""
        if flow.is_replay is not None:
            flow.response = http.Response.make(403, b"sluicegate does not replay: send it through a listener")

    @closed(_no_server)
    def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        gate = _gate_of(data.client)
        if gate is None:
            # a database connection, which `addons.wire_layer` has opened; anything else has no guard above it: a replay
            # from mitmweb, the commands of a script
            mode = data.client.proxy_mode.type_name if data.client.proxy_mode is not None else ""
            if mode not in PROTOCOLS:
                data.server.error = "refused by the gateway"
            return
        if why := gate.connect(data.server):
            data.server.error = why

    def server_disconnected(self, data: server_hooks.ServerConnectionHookData) -> None:
        if gate := _gate_of(data.client):
            gate.closed(data.server)

    def client_disconnected(self, client: connection.Client) -> None:
        if gate := _gates.pop(client.id, None):
            gate.disconnected()

    @closed(_no_tls)
    def tls_start_client(self, data: tls.TlsData) -> None:
        """The listener's own certificate. In a CONNECT tunnel mitmproxy mints one for the destination."""
        gate = _gate_of(data.context.client)
        if gate is None or any(isinstance(x, Inner) for x in data.context.layers):
            return
        data.ssl_conn = SSL.Connection(gate.runtime.http.listener_tls(gate.listener, gate.forward_proxy))
        data.ssl_conn.set_accept_state()

    @closed(_no_tls)
    def tls_start_server(self, data: tls.TlsData) -> None:
        gate = _gate_of(data.context.client)
        if gate is None:
            return
        server = cast(connection.Server, data.conn)
        offers = [_H2, _H1] if data.context.client.alpn == _H2 else [_H1]
        data.ssl_conn = upstream_tls(gate.runtime, gate.resource, server.sni or "", offers)

    def tls_failed_client(self, data: tls.TlsData) -> None:
        """A client that does not take our certificate: it may be pinned. Worth knowing."""
        gate = _gate_of(data.context.client)
        if gate is not None and gate.tunnel is not None:
            gate.runtime.note(
                "tls.refused",
                {
                    "s": gate.tunnel.id,
                    "subject": gate.tunnel.principal.subject,
                    "listener": gate.listener.name,
                    "client": gate.peer,
                    "resource": gate.resource.name,
                    "host": data.context.client.sni or "",
                    "why": "the client did not accept the gateway's certificate; to let it pass unopened, allow "
                    "`http.opaque` for this host",
                },
            )


def upstream_tls(owner: Runtime, resource: ResourceConfig, name: str, offers: list[bytes]) -> SSL.Connection:
    """A TLS connection to the upstream, with its name verified as the resource says."""
    ssl_conn = SSL.Connection(owner.http.upstream_tls(resource))
    verify = resource.tls.mode not in ("require",)
    if verify and not name:
        raise ValueError("an upstream without a name cannot be verified")
    if name:
        library = cast(Any, SSL)._lib
        parameters = library.SSL_get0_param(cast(Any, ssl_conn)._ssl)
        library.X509_VERIFY_PARAM_set_hostflags(parameters, _HOST_FLAGS)
        try:
            address = ipaddress.ip_address(name).packed
        except ValueError:
            host = name.encode("idna")
            ssl_conn.set_tlsext_host_name(host)
            ok = (
                library.X509_VERIFY_PARAM_set1_host(parameters, host, len(host))
                if resource.tls.mode != "verify-ca"
                else 1
            )
        else:
            ok = (
                library.X509_VERIFY_PARAM_set1_ip(parameters, address, len(address))
                if resource.tls.mode != "verify-ca"
                else 1
            )
        if ok != 1:
            raise ValueError("the upstream's name cannot be verified")
    ssl_conn.set_alpn_protos(offers)
    ssl_conn.set_connect_state()
    return ssl_conn

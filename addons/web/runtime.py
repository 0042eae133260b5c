"""What HTTP listeners share in one process: TLS contexts, checked destinations, the folder for large bodies."""

from __future__ import annotations

import ipaddress
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mitmproxy import connection, ctx
from OpenSSL import SSL

from addons.kube.exchange import KubeExchange
from addons.kube.gate import KubeGate, Refusals
from addons.tls import TlsError, listener_files
from addons.web.aws import AwsExchange, AwsGate, SharedKeys
from addons.web.destinations import Destinations
from addons.web.gate import HttpGate
from addons.web.inspect import Outbound
from guard.config.schema import ListenerConfig, ResourceConfig

if TYPE_CHECKING:
    from addons.runtime import Runtime

PROTOCOLS = ("http", "kubernetes")
_H2, _H1 = b"h2", b"http/1.1"


class HttpRuntime:
    """Made with the runtime; raises TlsError, OSError or DetectError: then nothing is served."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        config = runtime.config
        self.spool = config.state_dir / "spool"
        shutil.rmtree(self.spool, ignore_errors=True)  # what a killed process left: bodies of clients
        self.spool.mkdir(mode=0o700, parents=True)
        self.outbound = Outbound(runtime.fingerprints)
        self.own_ports = {x.port for x in config.listeners}
        if (web := getattr(ctx.options, "web_port", None)) is not None:
            self.own_ports.add(int(web))  # mitmweb's page
        self._listeners: dict[str, SSL.Context] = {}
        self._upstreams: dict[str, SSL.Context] = {}
        self._destinations: dict[str, Destinations] = {}
        self._refusals = Refusals()
        self._keys: dict[str, SharedKeys] = {}
        if any(listener.protocol in PROTOCOLS for listener in config.listeners):
            self.outbound.ready()
        for listener in config.listeners:
            if listener.protocol in PROTOCOLS and listener.tls.mode != "off":
                resource = config.resource(listener.resource)
                self.listener_tls(listener, forward_proxy=not resource.host)
        for resource in config.resources:
            if resource.protocol in PROTOCOLS:
                self.upstream_tls(resource)

    @property
    def proxy_ca_file(self) -> str:
        """The CA that signs what clients of the forward proxy see: mitmproxy's, in its `confdir`."""
        folder = Path(str(cast(Any, ctx.options).confdir)).expanduser()
        return str(folder / "mitmproxy-ca-cert.pem")

    def gate(self, listener: ListenerConfig, resource: ResourceConfig, client: connection.Client) -> HttpGate:
        destinations = self._destinations.get(resource.name)
        if destinations is None:
            networks = [ipaddress.ip_network(text) for text in resource.private_networks]
            if resource.host:
                networks += [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]  # the operator named it
            destinations = self._destinations[resource.name] = Destinations(networks, self.own_ports)
        given = (self._runtime, listener, resource, client, destinations)
        if listener.protocol == "kubernetes":
            return KubeGate(*given, KubeExchange, refusals=self._refusals)
        if resource.http_auth.kind == "aws_sigv4":
            keys = self._keys.setdefault(resource.name, SharedKeys(self._runtime, resource))
            return AwsGate(*given, AwsExchange, keys=keys)
        return HttpGate(*given)

    def listener_tls(self, listener: ListenerConfig, forward_proxy: bool) -> SSL.Context:
        found = self._listeners.get(listener.name)
        if found is None:
            chain, key = listener_files(listener, self._runtime.ca)
            found = SSL.Context(SSL.TLS_SERVER_METHOD)
            found.set_min_proto_version(SSL.TLS1_2_VERSION)
            try:
                found.use_certificate_chain_file(str(chain))
                found.use_privatekey_file(str(key))
                found.check_privatekey()
            except SSL.Error as e:
                raise TlsError(f"listener `{listener.name}`: certificate `{chain}` cannot be used: {e}") from e
            found.set_alpn_select_callback(_only_h1 if forward_proxy else _h2_or_h1)
            self._listeners[listener.name] = found
        return found

    def upstream_tls(self, resource: ResourceConfig) -> SSL.Context:
        found = self._upstreams.get(resource.name)
        if found is None:
            tls = resource.tls
            found = SSL.Context(SSL.TLS_CLIENT_METHOD)
            found.set_min_proto_version(SSL.TLS1_2_VERSION)
            try:
                if tls.mode == "require":
                    found.set_verify(SSL.VERIFY_NONE)
                else:
                    found.set_verify(SSL.VERIFY_PEER)
                    if tls.ca is not None:
                        found.load_verify_locations(str(tls.ca))
                    else:
                        _default_roots(found)
                if tls.certificate is not None:
                    found.use_certificate_chain_file(str(tls.certificate))
                    found.use_privatekey_file(str(tls.key or tls.certificate))
            except SSL.Error as e:
                raise TlsError(f"resource `{resource.name}`: its TLS files cannot be used: {e}") from e
            self._upstreams[resource.name] = found
        return found


def _default_roots(context: SSL.Context) -> None:
    import certifi  # mitmproxy's own choice of roots

    context.set_default_verify_paths()
    context.load_verify_locations(certifi.where())


def _h2_or_h1(_conn: SSL.Connection, offers: list[bytes]) -> Any:
    for wanted in (_H2, _H1):
        if wanted in offers:
            return wanted
    return SSL.NO_OVERLAPPING_PROTOCOLS


def _only_h1(_conn: SSL.Connection, offers: list[bytes]) -> Any:
    """A proxy is asked with CONNECT, which mitmproxy speaks over HTTP/1 only."""
    return _H1 if _H1 in offers else cast(Any, SSL).NO_OVERLAPPING_PROTOCOLS

"""What single values cannot show: names that must exist or be unique, ports that clash, files that must be there."""

from __future__ import annotations

import grp
import ipaddress
import re
import ssl
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography import x509

from guard.config.schema import Config, RoleMembers, RolesConfig
from guard.config.trust import public_issuers, unclear_roles, unclear_rules
from guard.config.values import is_loopback
from guard.documents import Document, Problem
from guard.documents.reader import Location
from guard.documents.validate import suggest
from guard.enforce import PolicySet
from guard.secrets import SecretError, SecretRef, environment, files

_REGION = re.compile(r"\.([a-z]{2}(?:-[a-z]+){1,2}-[0-9])\.(?:api\.)?amazonaws\.com(?:\.cn)?\Z")


def cross_check(config: Config, document: Document) -> list[Problem]:
    """Everything wrong in the configuration as a whole, the policies' rules against it excepted."""
    return [
        *_unique(document, "listeners", [one.name for one in config.listeners], "name"),
        *_unique(document, "resources", [one.name for one in config.resources], "name"),
        *_unique(document, "issuers", [one.issuer for one in config.issuers], "issuer"),
        *_unique(document, "policies", [str(one) for one in config.policies], None),
        *_resources_of_listeners(config, document),
        *_ports(config, document),
        *_plaintext(config, document),
        *_unverified(config, document),
        *_patterns_in_roles(config, document),
        *_tls_files(config, document),
        *_other_files(config, document),
        *_permissions(config, document),
        *_regions(config, document),
        *_state_dir(config, document),
        *_control(config, document),
        *_metrics(config, document),
        *public_issuers(config, document),
        *unclear_roles(config, document),
    ]


def check_rules(config: Config, document: Document, policies: PolicySet) -> list[Problem]:
    """The policies' rules against the configuration that they are used in."""
    problems: list[Problem] = []
    approver = config.roles.approver
    if policies.holds and not (approver.groups or approver.subjects):
        problems.append(
            document.problem(
                ("roles",),
                f"nobody has the role `approver`, but rule `{policies.holds[0]}` holds: nobody could release a command",
                key=True,
            )
        )
    longest = config.limits.hold_timeout
    for one in policies.rules:
        if one.hold is not None and one.hold.expires_s > longest:
            message = (
                f"rule `{one.name}` holds for {one.hold.expires_s:g} s, but nothing is held longer than {longest:g} s"
            )
            problems.append(document.problem(("limits", "hold_timeout"), message, warning=True))
    problems += unclear_rules(config, document, policies)
    known = [resource.name for resource in config.resources]
    for rule, name in policies.named_resources:
        if name not in known:
            problems.append(
                document.problem(
                    ("policies",),
                    f"rule `{rule}` is about resource `{name}`, which is not configured here{suggest(name, known)}",
                    key=True,
                    warning=True,
                )
            )
    return problems


def missing_secrets(config: Config, document: Document) -> Iterator[Problem]:
    """Warnings alone: where this is checked need not be where the gateway starts."""
    named: list[tuple[Location, SecretRef]] = [
        *((("resources", i, "credential"), one.credential) for i, one in enumerate(config.resources)),
        *((("notify", i, "secret"), one.secret) for i, one in enumerate(config.notify)),
    ]
    named += [((*place, "token"), ref.token) for place, ref in named if ref.token is not None]
    for place, ref in named:
        try:
            if ref.provider == "env":
                environment.value(ref)
            elif ref.provider == "file":
                files.read_private(ref.path or "")
        except SecretError as error:
            yield document.problem(place, f"as things are here: {error}", warning=True)


def _unique(document: Document, section: str, names: Sequence[str], key: str | None) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in seen:
            place: Location = (section, index, key) if key else (section, index)
            yield document.problem(place, f"`{name}` is given twice: also as number {seen[name] + 1} of `{section}`")
        seen.setdefault(name, index)


def _resources_of_listeners(config: Config, document: Document) -> Iterator[Problem]:
    resources = {resource.name: resource for resource in config.resources}
    for index, listener in enumerate(config.listeners):
        resource = resources.get(listener.resource)
        if resource is None:
            hint = suggest(listener.resource, resources)
            yield document.problem(("listeners", index, "resource"), f"no resource `{listener.resource}`{hint}")
        elif resource.protocol != listener.protocol:
            yield document.problem(
                ("listeners", index, "protocol"),
                f"listener `{listener.name}` speaks {listener.protocol}, its resource `{resource.name}` speaks "
                f"{resource.protocol}",
            )


def _ports(config: Config, document: Document) -> Iterator[Problem]:
    for index, listener in enumerate(config.listeners):
        for other in config.listeners[:index]:
            if _same_port((listener.host, listener.port), (other.host, other.port)):
                yield document.problem(
                    ("listeners", index, "listen"), f"port {listener.port} is already taken by listener `{other.name}`"
                )
                break


def _metrics(config: Config, document: Document) -> Iterator[Problem]:
    if (metrics := config.metrics) is None:
        return
    host, port = metrics.address
    for other in config.listeners:
        if _same_port((host, port), (other.host, other.port)):
            yield document.problem(("metrics", "listen"), f"port {port} is already taken by listener `{other.name}`")
    if not is_loopback(host) and not metrics.insecure_plaintext:
        yield document.problem(
            ("metrics", "listen"),
            "whoever reaches this address could read what is going on, in clear: listen on loopback, or say "
            "`insecure_plaintext: true` here",
        )


def _same_port(one: tuple[str, int], other: tuple[str, int]) -> bool:
    if one[1] != other[1] or one[1] == 0:
        return False
    return one[0] == other[0] or _is_any(one[0]) or _is_any(other[0])


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _plaintext(config: Config, document: Document) -> Iterator[Problem]:
    for index, listener in enumerate(config.listeners):
        if listener.tls.mode != "required" and not is_loopback(listener.host) and not listener.insecure_plaintext:
            yield document.problem(
                ("listeners", index, "tls"),
                f"`tls.mode: {listener.tls.mode}` lets tokens cross the network in clear: use `required`, listen on "
                "loopback, or say `insecure_plaintext: true` in this listener",
            )


def _unverified(config: Config, document: Document) -> Iterator[Problem]:
    """Warnings: a server elsewhere that nobody verifies gets the credential, whoever it is."""
    for index, resource in enumerate(config.resources):
        mode, host = resource.tls.mode, resource.host
        if host is None or is_loopback(host) or mode not in ("off", "require"):
            continue
        how = "crosses the network in clear" if mode == "off" else "goes to whoever answers in its place"
        message = f"`tls.mode: {mode}`: what passes to `{host}` {how}, its credential included: `verify-full` is safe"
        yield document.problem(("resources", index, "tls"), message, warning=True)


def _patterns_in_roles(config: Config, document: Document) -> Iterator[Problem]:
    """Warnings: roles are given letter by letter, where policies have patterns."""
    for role in RolesConfig.model_fields:
        members: RoleMembers = getattr(config.roles, role)
        for kind, names in (("groups", members.groups), ("subjects", members.subjects)):
            for index, name in enumerate(names):
                if "*" in name or "?" in name:
                    message = f"a role has no patterns: this is the one called `{name}`, letter by letter"
                    yield document.problem(("roles", role, kind, index), message, warning=True)


def _tls_files(config: Config, document: Document) -> Iterator[Problem]:
    pairs = [
        *((("listeners", i, "tls"), one.tls.certificate, one.tls.key) for i, one in enumerate(config.listeners)),
        *((("resources", i, "tls"), one.tls.certificate, one.tls.key) for i, one in enumerate(config.resources)),
    ]
    for place, certificate, key in pairs:
        if (certificate is None) != (key is None):
            yield document.problem(place, "`certificate` and `key` belong together: give both or neither", key=True)
        elif certificate is not None and key is not None:
            yield from _load(document, (*place, "certificate"), partial(_pair, certificate, key))
            yield from _out_of_date(document, (*place, "certificate"), certificate)


def _out_of_date(document: Document, place: Location, path: Path) -> Iterator[Problem]:
    """A warning: where this is checked the clock may be another."""
    try:
        leaf = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except (OSError, ValueError):
        return  # told already
    now, since, until = datetime.now(UTC), leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not since <= now <= until:
        why = f"expired on {until.date()}" if now > until else f"is not valid before {since.date()}"
        yield document.problem(place, f"`{path}` {why}: whoever verifies it refuses the connection", warning=True)


def _permissions(config: Config, document: Document) -> Iterator[Problem]:
    """Warnings: files that every user of this machine could write, or keys that each could read."""
    written: list[tuple[Location, Path]] = [
        ((), config.path),
        *((("policies", i), one) for i, one in enumerate(config.policies)),
        *((place, bundle) for place, bundle in _bundles(config) if bundle is not None),
    ]
    keys: list[tuple[Location, Path | None]] = [
        *((("listeners", i, "tls", "key"), one.tls.key) for i, one in enumerate(config.listeners)),
        *((("resources", i, "tls", "key"), one.tls.key) for i, one in enumerate(config.resources)),
    ]
    for place, path in written:
        if _mode(path) & stat.S_IWOTH:
            message = f"every user of this machine can write to `{path}`, and decide what passes here: chmod o-w it"
            yield document.problem(place, message, warning=True)
    for place, key in keys:
        if key is not None and _mode(key) & (stat.S_IROTH | stat.S_IWOTH):
            message = f"every user of this machine can read or write `{key}`: chmod 600 it"
            yield document.problem(place, message, warning=True)


def _mode(path: Path) -> int:
    """What others may do with it; nothing, where that cannot be told: whether it can be read is another check."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _bundles(config: Config) -> list[tuple[Location, Path | None]]:
    return [
        *((("resources", i, "tls", "ca"), one.tls.ca) for i, one in enumerate(config.resources)),
        *((("resources", i, "credential", "ca"), one.credential.ca) for i, one in enumerate(config.resources)),
        *((("issuers", i, "ca"), one.ca) for i, one in enumerate(config.issuers)),
        *((("notify", i, "ca"), one.ca) for i, one in enumerate(config.notify)),
        *((("notify", i, "secret", "ca"), one.secret.ca) for i, one in enumerate(config.notify)),
    ]


def _other_files(config: Config, document: Document) -> Iterator[Problem]:
    for place, bundle in _bundles(config):
        if bundle is not None:
            yield from _load(document, place, partial(_bundle, bundle))


def _pair(certificate: Path, key: Path) -> None:
    # an empty password: an encrypted key must fail here, not ask on the terminal
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")


def _bundle(path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    if not context.cert_store_stats()["x509"]:
        raise ssl.SSLError("no certificate in it")


def _regions(config: Config, document: Document) -> Iterator[Problem]:
    for index, resource in enumerate(config.resources):
        region, host = resource.http_auth.region, resource.host or ""
        named = _REGION.search(host)
        if region is not None and named is not None and named[1] != region:
            message = f"signs for `{region}`, but `{host}` is in `{named[1]}`: it will refuse the signature"
            yield document.problem(("resources", index, "http_auth", "region"), message, warning=True)


def _load(document: Document, place: Location, load: Callable[[], None]) -> Iterable[Problem]:
    try:
        load()
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        return [document.problem(place, f"not a usable PEM file (certificate and key must match): {reason}")]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return [document.problem(place, f"cannot be read: {reason.lower()}")]
    return []


def _control(config: Config, document: Document) -> Iterator[Problem]:
    group, path = config.control.group, config.control_path
    if group is None:
        return
    try:
        grp.getgrnam(group)
    except KeyError:
        yield document.problem(("control", "group"), f"there is no group `{group}` on this machine; `groupadd` it")
    if path.is_relative_to(config.state_dir):
        yield document.problem(
            ("control", "path"),
            "is inside `state_dir`, which nobody but the gateway may enter: use a folder outside, such as "
            "/run/sluicegate/control/control.sock",
        )
    if config.state_dir.is_relative_to(path.parent):
        yield document.problem(
            ("control", "path"), f"`{path.parent}` is opened to group `{group}` and must hold nothing but the socket"
        )


def _state_dir(config: Config, document: Document) -> Iterator[Problem]:
    path = config.state_dir
    try:
        if not path.exists():
            return
        if not path.is_dir():
            yield document.problem(("state_dir",), "exists, but is no folder")
        elif path.stat().st_mode & 0o022:
            yield document.problem(
                ("state_dir",),
                f"others can write to `{path}`, and put their own approvals, keys and evidence there: chmod go-w it",
            )
    except OSError as error:
        yield document.problem(("state_dir",), f"cannot be reached: {(error.strerror or '').lower()}")

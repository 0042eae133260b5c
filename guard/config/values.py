"""Checks of single values: names, addresses, URLs, paths."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationInfo

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_SCOPE_PART = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_HOST = re.compile(r"\w[\w.-]*\Z")
_NUMBERS = re.compile(r"[0-9.]+\Z")
_VARIABLE = re.compile(r"[A-Za-z0-9_.-]+\Z")
_DISCOVERY = "/.well-known/"
_KEY_ID = re.compile(r"[A-Za-z0-9._=+@-]{1,128}\Z")


def check_name(value: str) -> str:
    """A name that can stand in a file name, a log line and a shell command without quotes."""
    if not _NAME.match(value):
        raise ValueError("expected a name: letters, digits, `.`, `_` and `-`, at most 63")
    return value


def check_text(value: str) -> str:
    """Not empty, no blanks around it, nothing unprintable."""
    if not value or value != value.strip() or not value.isprintable():
        raise ValueError("expected text that is not empty, without blanks around it or control characters")
    return value


def split_address(value: str) -> tuple[str, int]:
    """`127.0.0.1:6432`, `[::1]:6432`, `localhost:6432` -> (host, port). Raises ValueError."""
    host, colon, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host and not bracketed):
        raise ValueError("expected address:port, such as 127.0.0.1:6432 or [::1]:6432")
    host = host[1:-1] if bracketed else host
    if bracketed and not _is_ip(host):
        raise ValueError("expected an IPv6 address between the brackets")
    if not host or host == "*":
        raise ValueError("name the address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for all networks")
    return check_host(host), int(port)


def check_host(value: str) -> str:
    """A host's name or address by itself, IPv6 without brackets."""
    numbers = ":" in value or _NUMBERS.match(value) is not None
    if numbers and not _is_ip(value):
        raise ValueError("expected a host name or an address alone: a port has a key of its own, IPv6 no brackets")
    if not numbers and not _HOST.match(value):
        raise ValueError("expected a host name or an address alone, such as db.internal: no URL, no path, no user")
    return value


def check_variable(value: str) -> str:
    """The name of an environment variable; it is not repeated: somebody may have written the secret itself here."""
    if not _VARIABLE.match(value):
        raise ValueError("expected the name of an environment variable, such as SHOP_DB_PASSWORD: no `$`, no value")
    return value


def check_issuer(value: str) -> str:
    """The URL that is `iss` in tokens."""
    parts = urlsplit(check_url(value))
    if _DISCOVERY in parts.path:
        raise ValueError(f"name the issuer itself, as it stands in `iss` of its tokens: without `{_DISCOVERY}...`")
    if parts.query or parts.fragment:
        raise ValueError("an issuer's URL has no query and no fragment")
    return value


def check_address(value: str) -> str:
    """A listening address; returned as it is."""
    split_address(value)
    return value


def check_url(value: str) -> str:
    """https, or http towards this machine: a token or key fetched in clear can be replaced by anybody on the way."""
    try:
        parts = urlsplit(value)
        host = parts.hostname
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        host, port_is_valid = None, False
    if not host or not port_is_valid or value != value.strip() or not value.isprintable():
        raise ValueError("expected a URL, such as https://idp.example")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL here must not carry a user or password")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError("expected https (http is accepted for this machine only)")
    return value


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it. A name other than localhost could resolve to anything."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def absolute(path: Path, info: ValidationInfo) -> Path:
    """`path`, taken relative to the folder that the validation context names as `base`."""
    if "\0" in str(path) or not str(path).strip():
        raise ValueError("expected a path")
    if path.parts[:1] and path.parts[0].startswith("~"):
        raise ValueError("`~` means nothing here: write the path in full, or relative to this file's folder")
    context = info.context
    base = context.get("base") if isinstance(context, dict) else None
    return (base / path).absolute() if isinstance(base, Path) else path


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def check_network(value: str) -> str:
    """A network such as 10.1.0.0/16, host bits zero."""
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError("expected a network such as 10.1.0.0/16 or 2001:db8::/32, host bits zero") from None
    return value


def check_scope_part(value: str) -> str:
    """A region or a service, as it stands in the scope of a signature."""
    if not _SCOPE_PART.match(value):
        raise ValueError("expected a name such as `eu-central-1` or `s3`: lower-case letters, digits and `-`")
    return value


def check_key_id(value: str) -> str:
    """An AWS access key id: it stands in a list with separators."""
    if not _KEY_ID.match(value):
        raise ValueError("`credential.user` is no AWS access key id: letters, digits and `._=+@-`, at most 128")
    return value

"""Objects in protobuf: what a stock client encodes, and every way in which bytes can lie."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.kubernetes import protobuf
from protocols.kubernetes.errors import Unreadable


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(api_version: str, kind: str, raw: bytes, rest: bytes = b"") -> bytes:
    meta = field(1, api_version) + field(2, kind)
    return b"k8s\x00" + field(1, meta) + field(2, raw) + field(3, "") + field(4, "") + rest


METADATA = field(1, field(1, "web") + field(3, "shop") + field(8, field(1, 1_700_000_000) + field(2, 0)))
SECURITY = field(15, field(1, field(1, "SYS_ADMIN")) + field(2, 1))
CONTAINER = field(2, field(1, "c") + field(2, "web:1") + field(3, "sh") + field(3, "-c") + SECURITY)
VOLUME = field(1, field(1, "v") + field(2, field(1, field(1, "/"))))


def test_a_pod() -> None:
    # PodSpec: containers 2, volumes 1, terminationGracePeriodSeconds 4, nodeSelector 7, hostNetwork 11
    spec = VOLUME + CONTAINER + field(4, (1 << 64) - 5) + field(7, field(1, "a") + field(2, "b")) + field(11, 1)
    found = protobuf.read(envelope("v1", "Pod", METADATA + field(2, spec)))
    assert found == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "2023-11-14T22:13:20Z"},
        "spec": {
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "containers": [
                {
                    "name": "c",
                    "image": "web:1",
                    "command": ["sh", "-c"],
                    "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}, "privileged": True},
                }
            ],
            "terminationGracePeriodSeconds": -5,
            "nodeSelector": {"a": "b"},
            "hostNetwork": True,
        },
    }


def test_a_secret_and_delete_options() -> None:
    raw = METADATA + field(2, field(1, "password") + field(2, b"\xff\x00")) + field(3, "Opaque")
    found = protobuf.read(envelope("v1", "Secret", raw))
    assert found["data"] == {"password": base64.b64encode(b"\xff\x00").decode()}
    # DeleteOptions: dryRun 5; each group has them under its own name
    for version in ("v1", "apps/v1", "rbac.authorization.k8s.io/v1"):
        assert protobuf.read(envelope(version, "DeleteOptions", field(5, "All")))["dryRun"] == ["All"]
    binding = field(3, field(1, "rbac.authorization.k8s.io") + field(2, "ClusterRole") + field(3, "admin"))
    found = protobuf.read(envelope("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", binding))
    assert found["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}


POD = METADATA + field(2, CONTAINER)
LIES = {
    "no magic": envelope("v1", "Pod", POD)[4:],
    "nothing": b"k8s\x00",
    "json": b'{"kind": "Pod"}',
    "an unknown kind": envelope("v1", "Podd", POD),
    "a kind of another group": envelope("example.org/v1", "Deployment", POD),
    "a group that only looks alike": envelope("apps.example.org/v1", "Deployment", POD),
    "a list": envelope("v1", "PodList", field(2, POD)),
    "an unknown field": envelope("v1", "Pod", POD + field(99, "x")),
    "an unknown field inside": envelope("v1", "Pod", field(2, CONTAINER + field(5000, 1))),
    "a message twice": envelope("v1", "Pod", field(2, b"") + field(2, CONTAINER)),
    "a scalar twice": envelope("v1", "Pod", field(2, field(11, 0) + field(11, 1))),
    "a key twice": envelope("v1", "Secret", field(2, field(1, "a") + field(2, "x")) * 2),
    "a value twice": envelope("v1", "Secret", field(2, field(1, "a") + field(2, "x") + field(2, "y"))),
    "a map of three": envelope("v1", "Secret", field(2, field(3, "a"))),
    "another type": envelope("v1", "Pod", field(2, 5)),
    "a number for a text": envelope("v1", "Secret", field(3, 5)),
    "a text for a truth": envelope("v1", "Pod", field(2, field(11, "x"))),
    "not utf-8": envelope("v1", "Secret", field(3, b"\xff")),
    "compressed": b"k8s\x00" + field(1, field(1, "v1") + field(2, "Pod")) + field(2, POD) + field(3, "gzip"),
    "of another type": b"k8s\x00" + field(1, field(1, "v1") + field(2, "Pod")) + field(2, POD) + field(4, "x/y"),
    "two objects": envelope("v1", "Pod", POD, field(2, POD)),
    "a fifth field": envelope("v1", "Pod", POD, field(5, "x")),
    "a group": envelope("v1", "Pod", b"\x0b\x0c"),
    "stream 0": envelope("v1", "Pod", b"\x02\x00"),
    "cut": envelope("v1", "Pod", POD[:-3] + b"\xff"),
    "a length that lies": envelope("v1", "Pod", b"\x12\xff\xff\xff\xff\x0f"),
    "a number without end": envelope("v1", "Pod", b"\x08" + b"\xff" * 11),
    "a number too large": envelope("v1", "Pod", b"\x08" + b"\xff" * 9 + b"\x7f"),
    "a moment that cannot be": envelope("v1", "Pod", field(1, field(8, field(1, 1 << 62)))),
    "two kinds": b"k8s\x00" + field(1, field(2, "Secret") + field(1, "v1") + field(2, "Pod")) + field(2, POD),
}  # fmt: skip


@pytest.mark.parametrize("body", LIES.values(), ids=LIES.keys())
def test_lies_are_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        protobuf.read(body)


@given(st.binary(max_size=80), st.integers(0, 200))
def test_only_unreadable_is_raised(noise: bytes, at: int) -> None:
    whole = envelope("v1", "Pod", POD)
    for body in (b"k8s\x00" + noise, envelope("v1", "Pod", noise), whole[:at] + noise, whole[:at] + noise + whole[at:]):
        try:
            found = protobuf.read(body)
        except Unreadable:
            continue
        json.dumps(found)


def test_the_schema_holds_together() -> None:
    """Every type that a field names is described, and no message says a number's name twice."""
    document: dict[str, Any] = json.loads((Path(protobuf.__file__).parent / "protobuf.json").read_text())
    words = "string bool int bytes strings quantity time duration int_or_string raw double"
    plain = set(words.split())
    for fields in document["messages"].values():
        for shown, kind, many in fields.values():
            assert kind.removeprefix("map:") in plain | document["messages"].keys()
            assert not kind.startswith("map:") or many
            assert shown or not many
    assert set(document["kinds"].values()) <= document["messages"].keys()
    assert {"core/v1 Pod", "core/v1 Secret", "apps/v1 Deployment", "DeleteOptions"} <= document["kinds"].keys()

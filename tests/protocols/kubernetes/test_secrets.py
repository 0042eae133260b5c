"""Secrets never leave in clear, in whatever form the API server shows them."""

from __future__ import annotations

import base64
import copy
import gzip
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.kubernetes.errors import RequestRefused, Withheld
from protocols.kubernetes.media import answers_objects, negotiate
from protocols.kubernetes.requests import resolve
from protocols.kubernetes.secrets import LAST_APPLIED, MaskedObjects, holds_placeholder, mask_answer, mask_event
from protocols.kubernetes.watching import WatchMasker

VALUE = "hunter2-do-not-show"
ENCODED = base64.b64encode(VALUE.encode()).decode()
MASK = base64.b64encode(b"[masked]").decode()
ONE = resolve("GET", "/api/v1/namespaces/shop/secrets/db")
LIST = resolve("GET", "/api/v1/secrets")
WATCH = resolve("GET", "/api/v1/secrets?watch=1")
WHAT = MaskedObjects()

APPLIED = json.dumps({"kind": "Secret", "metadata": {"name": "db"}, "data": {"password": ENCODED},
                      "stringData": {"p": VALUE}})  # fmt: skip
SECRET: dict[str, Any] = {
    "kind": "Secret",
    "apiVersion": "v1",
    "metadata": {
        "name": "db",
        "namespace": "shop",
        "annotations": {LAST_APPLIED: APPLIED, "note": "kept"},
        "managedFields": [{"fieldsV1": {"f:data": {"f:password": {}}}}],
    },
    "data": {"password": ENCODED, "user": ENCODED, "empty": ""},
    "type": "Opaque",
}
BARE = {key: value for key, value in SECRET.items() if key not in ("kind", "apiVersion")}
PARTIAL = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": SECRET["metadata"]}


def table(shown: Any) -> dict[str, Any]:
    return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": [{"name": "Name"}],
            "rows": [{"cells": ["db", "Opaque", 2], "object": shown}]}  # fmt: skip


FORMS = [
    (ONE, SECRET),
    (LIST, {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": [BARE, SECRET]}),
    (LIST, {"kind": "List", "apiVersion": "v1", "items": [SECRET]}),
    (LIST, table(SECRET)),
    (LIST, table(PARTIAL)),
    (ONE, PARTIAL),
    (LIST, {"kind": "PartialObjectMetadataList", "items": [PARTIAL]}),
    (WATCH, {"type": "MODIFIED", "object": SECRET}),
    (WATCH, {"type": "ADDED", "object": table(SECRET)}),
    (WATCH, {"type": "ADDED", "object": table(PARTIAL)}),
    # the answer to a patch, and to a delete of a collection
    (resolve("PATCH", "/api/v1/namespaces/shop/secrets/db"), SECRET),
    (resolve("DELETE", "/api/v1/namespaces/shop/secrets"), {"kind": "SecretList", "items": [BARE]}),
    # a server that calls it something else
    (ONE, SECRET | {"kind": "Sekret"}),
    (ONE, SECRET | {"stringData": {"p": VALUE}}),
]


@pytest.mark.parametrize(
    ("request_", "answer"), FORMS, ids=lambda v: str(v.get("kind", "event")) if isinstance(v, dict) else ""
)
@pytest.mark.parametrize("kind", ["application/json", "application/yaml"])
def test_every_form(request_: Any, answer: dict[str, Any], kind: str) -> None:
    masked = mask_answer(json.dumps(answer).encode(), kind, request_, WHAT)
    text = masked.body.decode()
    assert VALUE not in text
    assert ENCODED not in text
    assert masked.fields
    assert VALUE not in repr(masked)
    shown = json.loads(text)
    if shown.get("kind") == "Secret":
        assert shown["data"] == {"password": MASK, "user": MASK, "empty": ""}
        assert shown["metadata"]["annotations"]["note"] == "kept"
        assert shown["metadata"]["managedFields"] == SECRET["metadata"]["managedFields"]
        applied = json.loads(shown["metadata"]["annotations"][LAST_APPLIED])
        assert applied["data"] == {"password": MASK}
        assert applied["stringData"] == {"p": "[masked]"}
        assert masked.fields[:2] == ("shop/db data.password", "shop/db data.user")
        assert masked.fields[-1] == "shop/db last-applied-configuration"


def test_yaml_of_its_own() -> None:
    text = f"kind: Secret\nmetadata: {{name: db}}\ndata:\n  password: {ENCODED}\n".encode()
    assert ENCODED not in mask_answer(text, "application/yaml", ONE, WHAT).body.decode()


def test_what_needs_no_mask_passes_as_it_came() -> None:
    text = b'{ "kind" : "SecretList", "items" : [ ] }\n'
    assert mask_answer(text, "application/json", LIST, WHAT).body is text
    status = b'{"kind":"Status","status":"Success","details":{"name":"db"},"code":200}'
    assert mask_answer(status, "application/json", ONE, WHAT).body is status
    pods = resolve("GET", "/api/v1/pods")
    assert mask_answer(b"\x00k8s", "application/vnd.kubernetes.protobuf", pods, WHAT).body == b"\x00k8s"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"k8s\x00...", "application/vnd.kubernetes.protobuf"),
        (b"\xa1", "application/cbor"),
        (b"<html>", "text/html"),
        (b"data", ""),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'{"data": 1, "data": 2}', "application/json"),
        (b'{"kind": "Status", "data": {"a": "b"}}', "application/json"),
        (b'{"kind": "Status", "items": [{"data": {"a": "b"}}]}', "application/json"),
        (b'{"items": [["x"]]}', "application/json"),
        (b'{"kind": "Table", "rows": ["x"]}', "application/json"),
    ],
)
def test_what_cannot_be_masked_is_withheld(body: bytes, kind: str) -> None:
    with pytest.raises(Withheld):
        mask_answer(body, kind, ONE, WHAT)


def test_values_of_another_shape() -> None:
    odd = {"data": ["x", VALUE], "stringData": VALUE, "metadata": {"annotations": {LAST_APPLIED: 5}}}
    masked = json.loads(mask_answer(json.dumps(odd).encode(), "application/json", ONE, WHAT).body)
    assert masked == {"data": None, "stringData": None, "metadata": {"annotations": {LAST_APPLIED: "[masked]"}}}
    nested = json.dumps({"data": {"a": {"b": VALUE}, "c": [VALUE], "d": VALUE}}).encode()
    assert VALUE not in mask_answer(nested, "application/json", ONE, WHAT).body.decode()


def test_a_mask_that_fails_withholds() -> None:
    def fails(value: bytes) -> bytes:
        raise ValueError(value)

    with pytest.raises(Withheld) as caught:
        mask_answer(json.dumps(SECRET).encode(), "application/json", ONE, MaskedObjects(replace=fails))
    assert VALUE not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_config_maps_by_rule() -> None:
    request = resolve("GET", "/api/v1/namespaces/shop/configmaps/c")
    text = json.dumps({"kind": "ConfigMap", "data": {"a": VALUE}, "binaryData": {"b": ENCODED}}).encode()
    assert mask_answer(text, "application/json", request, WHAT).body is text
    both = MaskedObjects(frozenset({"secrets", "configmaps"}))
    masked = json.loads(mask_answer(text, "application/json", request, both).body)
    assert masked == {"kind": "ConfigMap", "data": {"a": "[masked]"}, "binaryData": {"b": MASK}}


def test_one_of_a_list_is_shown_where_its_name_is_granted() -> None:
    other = SECRET | {"metadata": {"name": "other", "namespace": "shop"}}
    text = json.dumps({"kind": "SecretList", "items": [SECRET, other]}).encode()
    granted = MaskedObjects(shows=lambda namespace, name: (namespace, name) == ("shop", "other"))
    first, second = json.loads(mask_answer(text, "application/json", ONE, granted).body)["items"]
    assert ENCODED not in json.dumps(first)
    assert second == other


@pytest.mark.parametrize(
    "text",
    [
        APPLIED,
        "\n " + APPLIED,
        json.dumps({"stringData": {"p": VALUE}}),
        base64.b64encode(gzip.compress(APPLIED.encode())).decode(),
        f"rotated from {VALUE}",
        f"rotated from {ENCODED} by hand",
        '{"data": broken ' + VALUE,
    ],
)
def test_annotations_in_which_other_tools_keep_it(text: str) -> None:
    """kapp keeps the whole object as JSON, Rancher the same packed, and people write notes."""
    secret = copy.deepcopy(SECRET)
    secret["metadata"]["annotations"]["kapp.k14s.io/original"] = text
    answer = {"kind": "SecretList", "apiVersion": "v1", "items": [secret]}
    shown = mask_answer(json.dumps(answer).encode(), "application/json", LIST, WHAT).body
    assert VALUE.encode() not in shown
    assert ENCODED.encode() not in shown
    [kept] = json.loads(shown)["items"]
    assert kept["metadata"]["annotations"]["note"] == "kept"
    assert "H4sI" not in kept["metadata"]["annotations"]["kapp.k14s.io/original"]


def test_the_name_in_what_was_once_applied_grants_nothing() -> None:
    applied = json.dumps({"kind": "Secret", "metadata": {"name": "granted"}, "data": {"a": ENCODED}})
    metadata = {"name": "db", "namespace": "shop", "annotations": {LAST_APPLIED: applied}}
    granted = MaskedObjects(shows=lambda _, name: name == "granted")
    masked = mask_answer(
        json.dumps({"kind": "Secret", "metadata": metadata}).encode(), "application/json", ONE, granted
    )
    assert ENCODED not in masked.body.decode()


KEYS = st.sampled_from(
    ["kind", "items", "data", "stringData", "rows", "object", "metadata", "annotations", "type", LAST_APPLIED]
)


@given(
    st.recursive(
        st.text("ab", max_size=3) | st.none() | st.integers(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=12,
    )
)
def test_any_document_is_masked_or_withheld(document: Any) -> None:
    hidden = copy.deepcopy(document)
    if isinstance(hidden, dict):
        hidden["data"] = {"k": ENCODED}
    try:
        masked = mask_answer(json.dumps(hidden).encode(), "application/json", ONE, WHAT)
    except Withheld:
        return
    assert ENCODED.encode() not in masked.body


def test_holds_placeholder() -> None:
    masked = json.loads(mask_answer(json.dumps(SECRET).encode(), "application/json", ONE, WHAT).body)
    assert holds_placeholder(masked)
    assert not holds_placeholder(SECRET)


# ---------------------------------------------------------------- watches

BOOKMARK = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "5"}}}
EVENTS = [{"type": "ADDED", "object": SECRET}, BOOKMARK, {"type": "DELETED", "object": SECRET},
          {"type": "ERROR", "object": {"kind": "Status", "code": 410}}]  # fmt: skip
STREAM = b"".join(json.dumps(event).encode() + b"\n" for event in EVENTS)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_watch_cut_anywhere(cuts: list[int]) -> None:
    seen: list[bytes] = []
    what = MaskedObjects(replace=lambda value: seen.append(value) or b"[masked]")
    masker = WatchMasker("application/json", WATCH, what)
    places = [0, *sorted(cuts), len(STREAM)]
    out = b"".join(masker.feed(STREAM[a:b]) for a, b in itertools.pairwise(places)) + masker.flush()
    assert out == b"".join(mask_event(line, WATCH, WHAT).body + b"\n" for line in STREAM.splitlines())
    assert ENCODED.encode() not in out
    assert len(out.splitlines()) == len(EVENTS)
    assert set(seen) == {VALUE.encode()}


def test_a_watch_keeps_nothing_of_what_it_has_given_on() -> None:
    """It may last for days."""
    masker = WatchMasker("application/json", WATCH, WHAT)
    for _ in range(3):
        masker.feed(STREAM)
    assert [name for name, kept in vars(masker).items() if isinstance(kept, list | bytes) and kept] == []


def test_each_event_goes_as_it_arrives() -> None:
    masker = WatchMasker("application/json;stream=watch", WATCH, WHAT)
    for event in EVENTS:
        assert masker.feed(json.dumps(event).encode() + b"\n").endswith(b"\n")
    assert masker.buffered == 0
    assert masker.feed(json.dumps(EVENTS[0]).encode()) == b""
    assert ENCODED.encode() not in masker.flush()


@pytest.mark.parametrize("lie", [b"{}}\n", b"data\n", b'["x"]\n', b"x" * 3000, b'{"kind":"Status","items":[]}\n'])
def test_a_watch_ends_with_the_first_lie(lie: bytes) -> None:
    masker = WatchMasker("application/json", WATCH, WHAT, max_event=2000)
    with pytest.raises(Withheld):
        masker.feed(lie)
    with pytest.raises(Withheld):
        masker.feed(b"{}\n")
    with pytest.raises(Withheld):
        masker.flush()


def test_a_watch_in_another_format() -> None:
    for kind in ("application/vnd.kubernetes.protobuf;stream=watch", "application/yaml", "text/html", ""):
        with pytest.raises(Withheld):
            WatchMasker(kind, WATCH, WHAT)


# ---------------------------------------------------------------- Accept

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
ACCEPTS = [
    (None, "application/json"),
    ("", "application/json"),
    ("*/*", "application/json"),
    ("application/json, */*", "application/json"),
    ("application/vnd.kubernetes.protobuf,application/json", "application/json"),
    ("application/vnd.kubernetes.protobuf, */*;q=0.1", "application/json;q=0.1"),
    ("application/cbor, application/json;q=0.9", "application/json;q=0.9"),
    (f"{TABLE},application/json", f"{TABLE}, application/json"),
    ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json", "application/json"),
    ("application/yaml", "application/yaml"),
    ("APPLICATION/JSON", "application/json"),
    ("application/json;q=0, application/yaml", "application/yaml"),
    ("application/json;as=Evil, application/json", "application/json"),
]


@pytest.mark.parametrize(("accept", "wanted"), ACCEPTS, ids=str)
def test_negotiation(accept: str | None, wanted: str) -> None:
    assert negotiate(accept, LIST) == wanted


@pytest.mark.parametrize(
    "accept",
    ["application/vnd.kubernetes.protobuf", "application/cbor", "application/cbor-seq", "application/json;q=0.0",
     "application/json;x=y", "text/html", "application/json;as=Protobuf", '"application/json"', ","],
)  # fmt: skip
def test_nothing_that_can_be_masked(accept: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        negotiate(accept, LIST)
    assert caught.value.code == 406


def test_watches_schemas_and_what_is_no_object() -> None:
    assert negotiate("application/yaml, application/json;stream=watch", WATCH) == "application/json;stream=watch"
    proto = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
    assert negotiate(proto, resolve("GET", "/openapi/v3/api/v1")) == proto
    assert answers_objects(LIST)
    assert not answers_objects(resolve("GET", "/api/v1/namespaces/a/pods/p/log"))
    assert not answers_objects(resolve("GET", "/healthz"))

"""Which masker a body gets: by its type, its charset, its codings, and the rules."""

from __future__ import annotations

from email.message import Message

from guard.detect import Scanner
from guard.mask.bodies.body import BodyMasker, Unchanged
from guard.mask.bodies.codings import coded, codings_of
from guard.mask.bodies.csv_body import CsvMasker
from guard.mask.bodies.form_body import FormMasker
from guard.mask.bodies.json_body import JsonMasker
from guard.mask.bodies.multipart_body import MultipartMasker, WholeField
from guard.mask.bodies.paths import Paths
from guard.mask.bodies.rules import DEFAULT, BodyError, BodyRules, Contents, Limits, Unmaskable
from guard.mask.bodies.text_body import MarkupMasker, TextMasker

# in these every byte below 0x80 is the ASCII character, wherever it stands
_CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii", "latin-1", "latin1"})
_CHARSET_FAMILIES = ("iso-8859-", "windows-125")
_SEQUENCES = frozenset(
    {
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/jsonlines",
    }
    | {"application/json-seq", "application/stream+json"}
)
_TEXT = frozenset(
    {"application/javascript", "application/x-javascript", "application/ecmascript", "application/yaml"}
    | {"application/x-yaml", "application/toml", "application/x-sh", "application/sql", "application/graphql"}
)
_TABLES = {"text/csv": None, "application/csv": None, "text/tab-separated-values": b"\t"}


class _OneByteEach:
    """Around a masker of text: what has NUL bytes is UTF-16 or UTF-32 whatever it says, and clients read it as such."""

    def __init__(self, inner: BodyMasker) -> None:
        self._inner = inner

    def feed(self, data: bytes) -> bytes:
        if b"\0" in data:
            raise BodyError("a text with NUL bytes cannot be searched")
        return self._inner.feed(data)

    def end(self) -> bytes:
        return self._inner.end()


class _Chooser:
    """The rules of one body, prepared."""

    def __init__(self, rules: BodyRules, limits: Limits, scanner: Scanner | None) -> None:
        self._rules = rules
        self._limits = limits
        self.paths = Paths(rules.fields)
        self.contents = Contents.of(rules.contents, scanner)

    def masker(self, content_type: str) -> BodyMasker:
        message = Message()
        message["content-type"] = content_type.replace("\r", " ").replace("\n", " ")
        if not content_type.strip() or "/" not in content_type:
            raise Unmaskable("the body does not say what it is: it has no content type")
        kind = message.get_content_type()  # lower case, without parameters
        if kind != content_type.partition(";")[0].strip().lower():
            raise Unmaskable("the content type cannot be read")
        if kind.startswith("multipart/"):
            return self._multipart(message)
        charset = str(message.get_param("charset", "")).strip().lower()
        if charset not in _CHARSETS and not charset.startswith(_CHARSET_FAMILIES):
            raise Unmaskable(f"charset `{charset[:40]}` cannot be searched")
        if kind in _SEQUENCES:
            return JsonMasker(self.paths, self.contents, self._limits, sequence=True)
        if kind == "application/json" or kind == "text/json" or kind.endswith("+json"):
            # Kubernetes marks its watches so: documents one after the other
            watch = message.get_param("stream") is not None
            return JsonMasker(self.paths, self.contents, self._limits, sequence=watch)
        if kind == "application/x-www-form-urlencoded":
            return FormMasker(self.paths, self.contents, self._limits)
        if kind in _TABLES:
            return _OneByteEach(CsvMasker(self.paths, self.contents, self._limits, delimiter=_TABLES[kind]))
        return self._unstructured(kind)

    def _unstructured(self, kind: str) -> BodyMasker:
        markup = kind in ("text/html", "application/xml", "text/xml") or kind.endswith("+xml")
        if not markup and not kind.startswith("text/") and kind not in _TEXT:
            raise Unmaskable(f"content type `{kind[:80]}` cannot be masked")
        if self._rules.fields and self._rules.fields_elsewhere != "pass":
            raise Unmaskable(f"content type `{kind[:80]}` has no fields, and the rules mask fields")
        if self.contents is None:
            return Unchanged()
        return _OneByteEach(MarkupMasker(self.contents) if markup else TextMasker(self.contents))

    def _multipart(self, message: Message) -> BodyMasker:
        boundary = message.get_param("boundary")
        if not isinstance(boundary, str):
            raise Unmaskable("the multipart body has no boundary")
        return MultipartMasker(boundary, self._part, self._limits)

    def _part(self, content_type: str, name: str | None) -> BodyMasker:
        if content_type.lower().lstrip().startswith("multipart/"):
            raise Unmaskable("a multipart body within a multipart body cannot be masked")
        if name is not None and (mask := self.paths.named(name)) is not None:
            return WholeField(mask, self._limits)
        plain = content_type.partition(";")[0].strip().lower() == "text/plain"
        if name is not None and plain and self.contents is None:
            return Unchanged()  # a field of another name
        if name is not None and plain and self.contents is not None:
            return _OneByteEach(TextMasker(self.contents))
        return self.masker(content_type)


def body_masker(
    content_type: str,
    content_encoding: str,
    rules: BodyRules,
    limits: Limits = DEFAULT,
    scanner: Scanner | None = None,
) -> BodyMasker:
    """The masker of a body with these headers (empty where there are none). Raises Unmaskable: withhold the body.

    `scanner`: one that knows the gateway's own secrets. Raises PathError and DetectError for rules that cannot work.
    """
    if not rules.fields and not rules.contents:
        return Unchanged()
    chooser = _Chooser(rules, limits, scanner)
    codings = codings_of(content_encoding)
    return coded(codings, chooser.masker(content_type), limits)

"""How one COPY writes its rows: the options of the statement, as its parse tree names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from protocols.postgres.values import MaskError

_TRUE, _FALSE = frozenset({"true", "on", "1"}), frozenset({"false", "off", "0"})
# options that change nothing of how rows are cut into fields
_IRRELEVANT = frozenset(
    {
        "freeze",
        "force_quote",
        "force_not_null",
        "force_null",
        "on_error",
        "log_verbosity",
        "reject_limit",
        "default",
        "convert_selectively",
    }
)


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How the rows of one COPY are written. `types` are `(type oid, type modifier)` of its columns."""

    format: Literal["text", "csv", "binary"] = "text"
    delimiter: bytes = b"\t"
    null: bytes = b"\\N"
    quote: bytes = b'"'
    escape: bytes = b'"'
    header: bool = False
    encoding: str | None = None  # None: the session's client_encoding
    types: tuple[tuple[int, int], ...] = ()
    forces: bool = False  # FORCE_NOT_NULL: what looks like NULL may be a value

    @classmethod
    def from_tree(cls, statement: Mapping[str, Any], types: tuple[tuple[int, int], ...] = ()) -> Self:
        """From pgparse's `CopyStmt`. Raises MaskError for an option that is not known here: it may change anything."""
        given: dict[str, Any] = {}
        for item in statement.get("options") or ():
            option = item["DefElem"]
            given[option["defname"]] = option.get("arg")
        form = _format(_word(given.pop("format", None), "text"))
        csv = form == "csv"
        quote = _word(given.pop("quote", None), '"').encode()
        options = cls(
            format=form,
            delimiter=_word(given.pop("delimiter", None), "," if csv else "\t").encode(),
            null=_word(given.pop("null", None), "" if csv else "\\N").encode(),
            quote=quote,
            escape=_word(given.pop("escape", None), quote.decode()).encode(),
            header=_flag(given.pop("header"), bool(statement.get("is_from"))) if "header" in given else False,
            encoding=_word(given.pop("encoding"), "") if "encoding" in given else None,
            types=types,
            forces="force_not_null" in given,
        )
        unknown = sorted(set(given) - _IRRELEVANT)
        if unknown:
            raise MaskError(f"copy option `{unknown[0]}` is not known: its rows cannot be masked")
        if any(len(x) != 1 for x in (options.delimiter, options.quote, options.escape)):
            raise MaskError("copy delimiter, quote and escape must be one byte each")
        return options


def _format(word: str) -> Literal["text", "csv", "binary"]:
    match word:
        case "text" | "csv" | "binary":
            return word
    raise MaskError(f"copy format `{word}` is not known: its rows cannot be masked")


def _word(arg: Any, default: str) -> str:
    if arg is None:
        return default
    if "String" in arg:
        return str(arg["String"].get("sval", ""))
    if "Integer" in arg:
        return str(arg["Integer"].get("ival", 0))
    if "Boolean" in arg:
        return "true" if arg["Boolean"].get("boolval") else "false"
    raise MaskError("a copy option has a value of an unknown kind")


def _flag(arg: Any, reading: bool) -> bool:
    value = _word(arg, "true").lower()
    if value in _TRUE or (reading and value == "match"):
        return True
    if value in _FALSE:
        return False
    raise MaskError("copy option `header` has a value that is not known")

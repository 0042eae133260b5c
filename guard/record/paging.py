"""How much of what the index has goes into one answer. Whoever made texts long must not make the gateway pay for it: an
answer is held in memory, and written on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select

from guard.record.errors import RecordError

MOST_BYTES = 8 * 1024 * 1024  # of texts in one answer
LONG = 256 * 1024  # characters of one text in an answer; `replay` shows all of it


class TooMuch(RecordError):
    """What was asked for does not fit into one answer; the text says what to ask for instead."""

    def __init__(self) -> None:
        super().__init__(
            f"the texts of so many records are more than {MOST_BYTES} bytes; ask for less (`--limit`, `--since`, "
            "`--until`), or replay the session"
        )


def page(
    connection: Connection, query: Select[Any], made: Callable[[Row[Any]], dict[str, Any]], limit: int
) -> tuple[list[tuple[int, dict[str, Any]]], int | None]:
    """Session and row of as many as fit into one answer; the last of them where more may follow."""
    found: list[tuple[int, dict[str, Any]]] = []
    for each, size in _sized(connection, query, made):
        found.append(each)
        if size > MOST_BYTES // 2:
            return found, each[1]["seq"]
    return found, found[-1][1]["seq"] if len(found) == limit else None


def fitting(
    connection: Connection, query: Select[Any], made: Callable[[Row[Any]], dict[str, Any]], *, partly: bool = False
) -> list[tuple[int, dict[str, Any]]]:
    """Session and row of all that is asked for; `partly`: of the first that fit. Raises `TooMuch`."""
    found: list[tuple[int, dict[str, Any]]] = []
    for each, size in _sized(connection, query, made):
        if size > MOST_BYTES and found:
            if not partly:
                raise TooMuch
            break
        found.append(each)
    return found


def _sized(
    connection: Connection, query: Select[Any], made: Callable[[Row[Any]], dict[str, Any]]
) -> Iterator[tuple[tuple[int, dict[str, Any]], int]]:
    """Session and row of each, and how many bytes all of them take up to there."""
    size = 0
    with connection.execute(query) as rows:
        for row in rows:
            size += _size(row)
            yield (row.session, made(row)), size


def _size(row: Row[Any]) -> int:
    """Bytes of a row's texts in an answer, as far as they are shown: a character may take six."""
    return sum(len(orjson.dumps(value[:LONG])) for value in row if isinstance(value, str))

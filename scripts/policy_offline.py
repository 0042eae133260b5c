"""Commands from text, files and pipes, analysed and judged without a gateway, by the code that the data path runs."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import importlib
import json
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Protocol

from addons.catalog_client import CatalogError, fetch_dsn
from guard.enforce import SessionPolicy
from protocols.contract import Action, Analysis, CatalogSnapshot, Decision, SessionFacts, Where
from protocols.judge_lines import JudgeError
from protocols.registry import PROTOCOLS

MAX_LINE = 128 * 1024 * 1024  # bytes: the largest command that a gateway may inspect, written in hex, with room
_READ_AHEAD = 64  # lines

type Decide = Callable[[Analysis], Decision]


class LineJudge(Protocol):
    """Answers lines of one protocol; raises `error` for a line that it cannot read."""

    @property
    def error(self) -> type[Exception]: ...

    @property
    def line(self) -> Callable[[Mapping[str, Any], Decide, CatalogSnapshot | None], dict[str, Any]]: ...


class Judge:
    """What one protocol's `judge_lines` module does with a line. Raises ValueError for a protocol that has none."""

    def __init__(self, protocol: str) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"commands of protocol `{protocol}` cannot be analysed")
        # each protocol's folder has the same file names
        module = importlib.import_module(f"protocols.{protocol}.judge_lines")
        self.error: type[Exception] = module.JudgeError
        self.line: Callable[[Mapping[str, Any], Decide, CatalogSnapshot | None], dict[str, Any]] = module.judge_line


class DsnCatalog:
    """The catalog of a database, or none where no DSN is given. Raises ValueError for a DSN of another protocol."""

    def __init__(self, dsn: str | None, protocol: str | None = None) -> None:
        self._dsn = dsn
        if dsn is not None and protocol is not None and protocol in PROTOCOLS:
            schemes = PROTOCOLS[protocol].dsn_schemes
            if dsn.partition("://")[0] not in schemes:
                raise ValueError(f"--catalog: commands of {protocol} need a DSN that begins with {schemes[0]}://")
        self._begun = float("-inf")
        self._catalog: CatalogSnapshot | None = None

    @property
    def given(self) -> bool:
        """Whether there is a database to ask."""
        return self._dsn is not None

    def since(self, asked_at: float) -> CatalogSnapshot | None:
        """A snapshot that was begun at `asked_at` (monotonic) or later: whoever changes the database and then asks gets
        an answer about what it is now. Raises CatalogError where the database cannot be asked."""
        if self._dsn is not None and self._begun < asked_at:
            begun = time.monotonic()
            self._catalog = asyncio.run(fetch_dsn(self._dsn))
            self._begun = begun
        return self._catalog


def analyse_text(protocol: str, text: str, catalog: CatalogSnapshot | None = None, *, database: str = "") -> Analysis:
    """What one command does, in a fresh session in `database`. Raises ValueError where no rule would even be asked."""
    judge = Judge(protocol)
    seen: list[Analysis] = []

    def decide(analysis: Analysis) -> Decision:
        seen.append(analysis)
        return Decision(Action.DENY, "none", "only analysed")

    try:
        answer = judge.line(
            {"id": None, "input": text, "startup": {"database": database} if database else {}}, decide, catalog
        )
    except judge.error as error:
        raise ValueError(str(error)) from error
    if not seen:
        raise ValueError(f"refused before any rule was asked: {answer['why']}")
    return functools.reduce(_either, seen)


def analyse_request(policy: SessionPolicy, text: str, facts: SessionFacts, now: float) -> Analysis:
    """What one request over HTTP does, as this session's rules ask. Raises ValueError where they are not even asked."""
    from scripts.policy_requests import RequestJudge  # mitmproxy takes a while to load, and SQL needs none of it
    from scripts.policy_texts import request_of

    try:
        return RequestJudge(policy, facts, now).analysis(request_of(policy.resource.protocol, text))
    except JudgeError as error:
        raise ValueError(str(error)) from error


def _either(one: Analysis, other: Analysis) -> Analysis:
    """Without a catalog it may not be known which kind of server reads the text: what it does on any of them."""
    if one == other:
        return one
    return dataclasses.replace(
        one,
        effects=one.effects | other.effects,
        reads=_all(one.reads, other.reads),
        writes=_all(one.writes, other.writes),
        columns=_all(one.columns, other.columns),
        predicates=_all(one.predicates, other.predicates),
        functions=_all(one.functions, other.functions),
        stores=tuple(dict.fromkeys((*one.stores, *other.stores))),
        where=max(one.where, other.where, key=_WORST.index),
        why="; ".join(_all((one.why,), (other.why,))).strip("; "),
        clear_columns=one.clear_columns & other.clear_columns,
    )


_WORST = (Where.NONE, Where.PRESENT, Where.ALWAYS_TRUE, Where.MISSING)


def _all(one: Iterable[str], other: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *other)))


def judge_stream(lines: BinaryIO, judge: LineJudge, decide: Decide, catalog: DsnCatalog) -> Iterator[dict[str, Any]]:
    """One answer for each line, as soon as the line is read. Never stops at a bad line: it is denied."""
    for line, asked_at in _ahead(lines) if catalog.given else _timed(lines):
        if len(line) > MAX_LINE:
            yield refusal(None, f"line longer than {MAX_LINE} bytes")
        elif line.strip():
            yield _judge(line, judge, decide, catalog, asked_at)


def _timed(lines: BinaryIO) -> Iterator[tuple[bytes, float]]:
    """Lines, and when they were there. Of a line that is too long only its beginning is kept."""
    while line := lines.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = lines.readline(MAX_LINE)
        yield line, time.monotonic()


def _ahead(lines: BinaryIO) -> Iterator[tuple[bytes, float]]:
    """The same, read by a thread: lines that are there already when a snapshot is begun need no other one."""
    waiting: queue.Queue[tuple[bytes, float] | None] = queue.Queue(_READ_AHEAD)

    def read() -> None:
        try:
            for one in _timed(lines):
                waiting.put(one)
        finally:
            waiting.put(None)

    threading.Thread(target=read, name="lines", daemon=True).start()
    while (one := waiting.get()) is not None:
        yield one


def _judge(line: bytes, judge: LineJudge, decide: Decide, catalog: DsnCatalog, asked_at: float) -> dict[str, Any]:
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError):
        return refusal(None, "not a line of JSON in UTF-8")
    if not isinstance(asked, dict):
        return refusal(None, "expected a JSON object with `id` and `input` (or `request`)")
    identity = asked.get("id")
    try:
        return judge.line(asked, decide, catalog.since(asked_at))
    except judge.error as error:
        return refusal(identity, str(error))
    except (CatalogError, OSError) as error:
        return refusal(identity, f"the database cannot be asked: {error}")
    except Exception as error:  # whatever one line provokes, it must not end the run; it is shown, and denied
        traceback.print_exception(error, file=sys.stderr)
        return refusal(identity, f"cannot be judged: {type(error).__name__}")


def refusal(identity: Any, why: str) -> dict[str, Any]:
    """The answer to what could not be judged, in the form of all answers."""
    return {
        "id": identity,
        "decision": "deny",
        "rule": "default",
        "effects": [],
        "reads": [],
        "writes": [],
        "unknown": True,
        "why": why,
    }

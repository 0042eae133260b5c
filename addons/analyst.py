"""The process that analyses long texts: `python -m addons.analyst`.

Questions come on stdin and answers go to stdout, one at a time (`addons.analysts` asks). It runs the very code that the
gateway runs for short texts, on a copy of the session's state and of the catalog. It reads hostile texts, and so it has
no socket, no credential and no file, and its memory is bounded. It ends when its stdin does.

A question is a pickle (see `protocols.crossing`): `("catalog", number)` with the catalog behind it, `("forget",
number)`, or `("read", number, protocol, catalog, variant, size of the text)` with the state and the text's bytes behind
it. Only the last is answered: `ANSWER` and what it announces.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from typing import IO, Any, cast

import orjson

from guard.record.redact import redact_params, redact_sql
from protocols import crossing
from protocols.analyses import AnalysisCache
from protocols.contract import SessionPort
from protocols.registry import PROTOCOLS
from protocols.verdicts import Read

ANSWER = struct.Struct("!QQQQ")  # number of the question; bytes of the analysis, of the record's parts, of its text
_NICENESS = 5  # traffic first
_MEMORY = 4 << 30  # bytes of address space


class _Port:
    """What an analysis asks of the process around it: how secrets are taken out of a text, and nothing else."""

    masker = None
    apart = False

    def redact(self, text: str) -> str:
        return redact_sql(text)

    def redact_params(self, text: str, values: Sequence[str | None]) -> tuple[str | None, ...]:
        return redact_params(text, values)


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Until the end of the questions. Raises what cannot be read: whoever asked starts another process."""
    catalogs: dict[int, Any] = {}
    port = cast(SessionPort, _Port())
    while True:
        try:
            question = pickle.load(questions)  # noqa: S301 - from the gateway itself, on a pipe that nobody else has
        except EOFError:
            return
        if question[0] == "catalog":
            catalogs[question[1]] = pickle.load(questions)  # noqa: S301 - as above
            continue
        if question[0] == "forget":
            del catalogs[question[1]]
            continue
        _, number, protocol, catalog, variant, size = question
        state = pickle.load(questions)  # noqa: S301 - as above
        text = questions.read(size)
        judge = PROTOCOLS[protocol].judge(port, state, AnalysisCache())
        read: Read[Any] = judge.read(text, None if catalog is None else catalogs[catalog], variant)
        command = crossing.pack(read.command, text)
        recorded = read.recorded
        parts = orjson.dumps([recorded.redacted, recorded.hidden, recorded.shape, recorded.runs.decode()])
        answers.write(ANSWER.pack(number, len(command), len(parts), len(recorded.field)))
        for piece in (command, parts, recorded.field):
            answers.write(piece)
        answers.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt at the terminal is for the gateway, which ends us
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    os.nice(_NICENESS)
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(0)  # the gateway is gone: nobody is left to be told
    except Exception as e:
        sys.exit(f"a long statement could not be analysed: {type(e).__name__}")  # its words may quote the text


if __name__ == "__main__":
    main()

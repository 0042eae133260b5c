"""Long texts are analysed in processes of their own, so that the event loop serves everybody else meanwhile.

Identities take turns: long texts of one wait for each other, one at a time, and not others for them. How many may wait,
how long for, and how long an analysis may take are bounded; past a bound the text is denied, in words.

A thread for each process does the talking: it waits on pipes most of the time, and lets the loop go on in between.

INVARIANT: whatever a process does (dies, hangs, answers something else), the question has one outcome, and none but an
analysis of that very text lets anything pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from addons.analyst import ANSWER
from protocols import crossing
from protocols.contract import Apart, CatalogSnapshot
from protocols.registry import PROTOCOLS
from protocols.verdicts import Read, Recorded

log = logging.getLogger("sluicegate.analysts")

Done = Callable[[Apart, Read[Any] | None, str], None]

_ROOT = Path(__file__).resolve().parent.parent
_COMMAND = (sys.executable, "-m", "addons.analyst")
# secrets of the gateway's environment are nothing to a process that reads hostile texts
_ENVIRONMENT = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR"),
    *("PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"),
)
_PROCESSES = max(1, min(4, (os.cpu_count() or 1) // 2))
_CATALOGS = 4  # that a process keeps
_TAKES = 10.0  # seconds that an analysis may take, with the start of its process
_WAITS = 30.0  # seconds that it may wait for its turn
_WAITING = 32  # of one identity
_WAITING_ALL = 256
_WAITING_BYTES = 256 << 20  # of all texts that wait, or are being analysed
_ADVICE = "send it again later, or in smaller parts"


class AnalystError(Exception):
    """A process did not answer as it must. The text is for the gateway's log."""


@dataclass(slots=True, eq=False)
class _Question:
    identity: str
    protocol: str
    asked: Apart
    done: Done
    expiry: asyncio.TimerHandle | None = None


class Analyst:
    """One process, begun when it is needed and again after a failure. `read` is called by one thread at a time."""

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._catalogs: list[tuple[CatalogSnapshot, int]] = []  # that it has, the last used one last
        self._numbers = 0
        self._stopped = False
        self._over = False

    def read(self, protocol: str, asked: Apart) -> Read[Any]:
        """Raises AnalystError, OSError, what pickle does: the process is gone then."""
        try:
            return self._read(protocol, asked)
        except BaseException:
            self.end()
            raise

    def _read(self, protocol: str, asked: Apart) -> Read[Any]:
        process = self._process
        if process is not None and (self._stopped or process.poll() is not None):
            self.end()  # it was stopped, or ended by itself, while nobody asked
            process = None
        if process is None:
            process = self._process = subprocess.Popen(  # noqa: S603 - our own module
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=_ROOT,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
        if self._stopped:
            raise AnalystError("stopped before it began")
        assert process.stdin is not None
        assert process.stdout is not None
        to, left_out = process.stdin, PROTOCOLS[protocol].judge.LEFT_OUT
        catalog = None if asked.catalog is None else self._bring(to, asked.catalog, left_out)
        self._numbers += 1
        number = self._numbers
        crossing.send(to, ("read", number, protocol, catalog, asked.variant, len(asked.text)), {})
        crossing.send(to, asked.state, left_out)
        to.write(asked.text)
        to.flush()
        answered, *sizes = ANSWER.unpack(_exactly(process.stdout, ANSWER.size))
        if answered != number:
            raise AnalystError("it answers another question")
        command, parts, field = (_exactly(process.stdout, size) for size in sizes)
        redacted, hidden, shape, runs = orjson.loads(parts)
        if not all(map(isinstance, (redacted, hidden, shape, runs), (bool, list, str, str))):
            raise AnalystError("it answers in another form")
        recorded = Recorded(field, redacted, tuple(hidden), shape, runs.encode())
        return Read(crossing.unpack(command, asked.text), recorded)

    def _bring(self, to: IO[bytes], catalog: CatalogSnapshot, left_out: crossing.LeftOut) -> int:
        """The number of the catalog in the process, which has it from then on."""
        for at, (known, number) in enumerate(self._catalogs):
            if known is catalog:
                self._catalogs.append(self._catalogs.pop(at))
                return number
        if len(self._catalogs) >= _CATALOGS:
            crossing.send(to, ("forget", self._catalogs.pop(0)[1]), {})
        self._numbers += 1
        crossing.send(to, ("catalog", self._numbers), {})
        crossing.send(to, catalog, left_out)
        self._catalogs.append((catalog, self._numbers))
        return self._numbers

    def kill(self, *, over: bool = False) -> None:
        """From any thread: whoever reads from it gets an error. `over`: there will be no other process."""
        self._over = self._over or over
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """No process any more. From the thread that reads, or when none does."""
        process, self._process = self._process, None
        self._stopped = self._over
        self._catalogs.clear()
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what could not be written is of no use to anybody
                        pipe.close()
            process.wait()


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise AnalystError("it ended in the middle of an answer")
    return data


class Analysts:
    """All processes, and who waits for them."""

    def __init__(
        self,
        count: int = _PROCESSES,
        command: Sequence[str] = _COMMAND,
        *,
        takes: float = _TAKES,
        waits: float = _WAITS,
        waiting: int = _WAITING,
        waiting_bytes: int = _WAITING_BYTES,
    ) -> None:
        self._idle = [Analyst(command) for _ in range(count)]
        self._all = tuple(self._idle)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="analysts")
        self._takes, self._waits, self._most, self._most_bytes = takes, waits, waiting, waiting_bytes
        self._bytes = 0
        # by identity, in the order of their turns
        self._waiting: dict[str, deque[_Question]] = {}
        self._served: set[str] = set()  # identities with one that is being analysed
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def ask(self, identity: str, protocol: str, asked: Apart, done: Done) -> None:
        """`done` is called once, later, with what came of it: an analysis, or None and why there is none."""
        loop = asyncio.get_running_loop()
        question = _Question(identity, protocol, asked, done)
        mine = self._waiting.get(identity, ())
        many = len(mine) >= self._most or sum(map(len, self._waiting.values())) >= _WAITING_ALL
        if self._closed or many or self._bytes + len(asked.text) > self._most_bytes:
            why = "too many long statements wait to be analysed"
            loop.call_soon(self._finish, question, None, f"{why}; {_ADVICE}")
            return
        self._bytes += len(asked.text)
        question.expiry = loop.call_later(self._waits, self._expire, question)
        self._waiting.setdefault(identity, deque()).append(question)
        self._serve()

    def forget(self, asked: Apart) -> None:
        """Nobody waits for it any more; one that is being analysed already goes on to its end."""
        for questions in self._waiting.values():
            for question in questions:
                if question.asked is asked:
                    self._remove(question)
                    self._bytes -= len(asked.text)
                    return

    def close(self) -> None:
        """Ends the processes. What still waits has no outcome: its sessions are over."""
        self._closed = True
        for questions in list(self._waiting.values()):
            for question in list(questions):
                self._remove(question)
        for analyst in self._all:
            analyst.kill(over=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        for analyst in self._all:
            analyst.end()

    def _remove(self, question: _Question) -> None:
        if question.expiry is not None:
            question.expiry.cancel()
        questions = self._waiting[question.identity]
        questions.remove(question)
        if not questions:
            del self._waiting[question.identity]

    def _expire(self, question: _Question) -> None:
        self._remove(question)
        self._bytes -= len(question.asked.text)
        self._finish(question, None, f"it waited {self._waits:g} s for its turn to be analysed; {_ADVICE}")

    def _serve(self) -> None:
        while self._idle:
            identity = next((one for one in self._waiting if one not in self._served), None)
            if identity is None:
                return
            question = self._waiting[identity][0]
            self._remove(question)
            self._served.add(identity)
            task = asyncio.ensure_future(self._analyse(self._idle.pop(), question))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _analyse(self, analyst: Analyst, question: _Question) -> None:
        loop = asyncio.get_running_loop()
        late = False

        def stop() -> None:
            nonlocal late
            late = True
            analyst.kill()

        limit = loop.call_later(self._takes, stop)
        read, why = None, ""
        try:
            read = await loop.run_in_executor(self._threads, analyst.read, question.protocol, question.asked)
        except Exception as e:
            if not self._closed:
                log.warning(
                    "a long statement of %s is not analysed: %s: %s",
                    question.identity.replace("\0", " "),
                    type(e).__name__,
                    e,
                )
            why = f"its analysis failed in the gateway; {_ADVICE}"
            if late:
                why = f"its analysis took more than {self._takes:g} s; {_ADVICE}"
        finally:
            limit.cancel()
            self._bytes -= len(question.asked.text)
            self._served.discard(question.identity)
            if question.identity in self._waiting:  # its turn comes again behind those of the others
                self._waiting[question.identity] = self._waiting.pop(question.identity)
            self._idle.append(analyst)
        self._finish(question, read, why)
        if not self._closed:
            self._serve()

    def _finish(self, question: _Question, read: Read[Any] | None, why: str) -> None:
        try:
            question.done(question.asked, read, why)
        except Exception:
            log.exception("a session could not go on after an analysis")

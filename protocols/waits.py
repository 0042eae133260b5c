"""What a session of any wire protocol does when one of its waits is over: a hold's outcome, names, an analysis.

INVARIANT: whatever the wait has brought is taken once; what then goes wrong ends the session in its protocol's words.
"""

from __future__ import annotations

from typing import Any, ClassVar

from protocols.contract import Apart, Outcome, RecordFailed, Wait
from protocols.verdicts import NotYet

TURN_NS = 20_000_000  # of the event loop's time for what one session has sent, before others are served


class Waits:
    """Mixed into a protocol's session."""

    PROTOCOL_ERROR: ClassVar[type[Exception]]

    ended: bool
    waiting: Wait | None
    judge: Any
    held: Any
    catalog_waited: bool
    _outcome: tuple[Outcome, str] | None = None  # of a hold whose command has to be analysed once more

    def unrecorded(self) -> None:
        raise NotImplementedError

    def _broken(self, error: Exception) -> None:
        """The client broke the protocol, with a `PROTOCOL_ERROR`: the session's last words."""
        raise NotImplementedError

    def _released(self, outcome: Outcome, why: str) -> None:
        raise NotImplementedError

    def _after_wait(self) -> None:
        """Goes on with what the client sent meanwhile, unless there is another wait."""
        raise NotImplementedError

    def resume(self, outcome: Outcome | None, why: str = "") -> None:
        if self.ended or self.waiting is None or self.waiting in (Wait.SERVER, Wait.ANALYSIS):
            return
        if (self.waiting is Wait.HOLD) != (outcome is not None):
            return
        if self.waiting is Wait.CATALOG:
            self.catalog_waited = True
        self._over(None if outcome is None else (outcome, why))

    def analysed(self, asked: Apart, read: Any, why: str = "") -> None:
        if self.judge.came(asked, read, why):
            self.catalog_waited = asked.catalog is None  # a fresh one was waited for already
            self._go_on()

    def _go_on(self) -> None:
        """A text was analysed apart, or will not be."""
        outcome, self._outcome = self._outcome, None
        self._over(outcome, analysed=True)

    def _over(self, outcome: tuple[Outcome, str] | None, *, analysed: bool = False) -> None:
        try:
            self.waiting = None
            if outcome is not None:
                self._let_go(*outcome)
                if analysed and self.waiting is not Wait.ANALYSIS:
                    self.judge.forget()
            self._after_wait()
        except RecordFailed:
            self.unrecorded()
        except self.PROTOCOL_ERROR as e:
            self._broken(e)

    def _let_go(self, outcome: Outcome, why: str) -> None:
        """A hold has ended. What it means by now may have to be analysed apart: its outcome is kept until then."""
        held = self.held
        try:
            self._released(outcome, why)
        except NotYet as wanted:
            self.held, self._outcome = held, (outcome, why)
            self.judge.ask(wanted)
            self.waiting = Wait.ANALYSIS

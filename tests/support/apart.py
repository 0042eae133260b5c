"""Long texts of a session between two hands: analysed in this process, but what crosses to another one crosses."""

from __future__ import annotations

import io
import pickle
from typing import Any

from protocols import crossing
from protocols.contract import Apart
from protocols.judging import AnalysisCache, StatementJudge
from protocols.verdicts import Read
from tests.support.port import Dialogue


def there(value: Any, judge: StatementJudge[Any, Any, Any]) -> Any:
    """A state or a catalog as it arrives where long texts are analysed."""
    file = io.BytesIO()
    crossing.send(file, value, judge.LEFT_OUT)
    return pickle.loads(file.getvalue())


def read(talk: Dialogue, asked: Apart) -> Read[Any]:
    """What the process answers."""
    judge = talk.session.judge
    catalog = there(asked.catalog, judge)
    apart = type(judge)(_Inline(talk.port), there(asked.state, judge), AnalysisCache())
    found: Read[Any] = apart.read(asked.text, catalog, asked.variant)
    return Read(crossing.unpack(crossing.pack(found.command, asked.text), asked.text), found.recorded)


class _Inline:
    """The port without its process for long texts."""

    apart = False
    masker = None

    def __init__(self, port: Any) -> None:
        self.redact = port.redact
        self.redact_params = port.redact_params


def answer(talk: Dialogue, *, why: str = "") -> bytes:
    """The last long text is analysed, or is not, and `why`: what goes up then."""
    asked = talk.port.long[-1]
    talk.session.analysed(asked, None if why else read(talk, asked), why)
    talk.session.catch_up()
    talk._asked()
    return talk.up()

"""Conversations that are held twice, once with every short way taken and once with none."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import strategies as st

from protocols.contract import Analysis, Decision, Outcome
from tests.support.port import Dialogue, anything, usual

MASKED = pytest.mark.parametrize("masked", [False, True], ids=["none masked", "some masked"])


def at_length(made: Dialogue, names: Sequence[str]) -> None:
    """From here on nothing is known by its bytes."""
    for name in names:
        setattr(made.session, name, lambda *_: False)


def kept_of(made: Dialogue, run: Callable[[], object]) -> int:
    """Bytes that are held after `run` and were not before."""
    gc.collect()
    tracemalloc.start()
    try:
        run()
        made.port.records.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def steps_of(
    said: st.SearchStrategy[bytes], again: st.SearchStrategy[bytes]
) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """What is said, often what was said before; and what happens around the session meanwhile."""
    around = st.one_of(
        st.tuples(st.just("cut"), st.integers(1, 60)),  # what is said next comes in two pieces
        st.tuples(st.just("cut answer"), st.integers(1, 60)),
        st.tuples(st.just("policy"), st.sampled_from([anything, usual])),
        st.tuples(st.just("names"), st.sampled_from(["v1", "v2"])),
        st.tuples(st.just("gap"), st.one_of(said, again)),  # said while there is no catalog, which comes then
        st.tuples(st.just("time"), st.sampled_from([1, 100])),
        st.tuples(st.just("alert"), st.booleans()),
        st.tuples(st.just("resume"), st.sampled_from([None, None, Outcome.APPROVED, Outcome.DENIED])),
    )
    one = st.one_of(
        *[st.tuples(st.just("say"), again)] * 4,
        *[st.tuples(st.just("say"), said)] * 4,
        st.tuples(st.just("only say"), st.one_of(said, again)),  # it is answered later
        around,
        around,
    )
    return st.lists(one, min_size=6, max_size=24)


def decider(made: Dialogue) -> None:
    """Around the port's decision: an hour for one statement, and an alert for all while `alert` is set."""
    port: Any = made.port
    port.inner, port.alerting = port.decision, False

    def decide(analysis: Analysis) -> Decision:
        found = port.inner(analysis)
        until = port.time + 50 if "public.orders.id" in analysis.columns and "SELECT id" in analysis.shape else None
        return Decision(
            found.action,
            found.rule,
            found.why,
            hold=found.hold,
            alerts=("look",) if port.alerting else (),
            valid_until=until or float("inf"),
        )

    port.decision = decide


def turn(made: Dialogue, what: str, how: Any, names: Callable[[str], Any]) -> bool:
    """A step that neither side says. True: it was one."""
    port: Any = made.port
    if what == "policy":
        port.epoch, port.inner = object(), how
    elif what == "alert":
        port.epoch, port.alerting = object(), how
    elif what == "names":
        port.snapshot = None if how is None else names(how)
    elif what == "time":
        port.time += how
    elif what == "resume":
        made.session.resume(how, "")
        made.session.catch_up()
        made._asked()
    else:
        return False
    return True


def played(
    made: Any,
    server: Any,
    steps: Sequence[tuple[str, Any]],
    names: Callable[[str], Any],
    kept: Callable[[Any], dict[str, Any]],
) -> list[Any]:
    """These steps. What went up is not compared: with masks the long way asks for columns on its own account."""
    seen: list[Any] = []
    up = down = b""
    cut = cut_answer = 0
    for what, how in [*steps, ("lull", 0)]:
        if what == "cut":
            cut = how
        elif what == "cut answer":
            cut_answer = how
        elif what in ("say", "only say", "gap"):
            there = made.port.snapshot
            made.port.snapshot = None if what == "gap" else there
            up += made.client(*((how[:cut], how[cut:]) if 0 < cut < len(how) else (how,)))
            cut = 0
            made.port.snapshot = there
            if what == "gap":
                turn(made, "resume", None, names)
        else:
            turn(made, what, how, names)
        up += made.up()
        while what != "only say" and (back := server.answers(up)):
            down += made.server(*((back[:cut_answer], back[cut_answer:]) if 0 < cut_answer < len(back) else (back,)))
            cut_answer = 0
            up = made.up()
        up = up if what == "only say" else b""
        down += made.down()
        seen.append((what, down, kept(made)))
    return [*seen, [{**r, "us": 0} for r in made.port.records]]

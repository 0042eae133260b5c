"""A client whose statement waits for a person, in a thread of its own, and what the approvals say about it."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any

import pytest

from scripts.support.lab import Lab


class Waiting:
    """`work` sends the statement and returns what the client got; `id` is the request that it led to."""

    def __init__(self, lab: Lab, work: Callable[[], Any]) -> None:
        self.known = {entry["id"] for entry in approvals(lab)}
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self.answer = self._pool.submit(work)
        self.id = self._wait(lab)

    def _wait(self, lab: Lab) -> str:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            fresh = [entry["id"] for entry in approvals(lab) if entry["id"] not in self.known]
            if fresh:
                return str(fresh[0])
            if self.answer.done():
                pytest.fail(f"the statement was not held: {self.answer.exception() or self.answer.result()}")
            time.sleep(0.05)
        pytest.fail("no approval was requested")


def approvals(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.gateway.ask("approvals", "list", "--status", "all", token=lab.tokens["admin"])
    return found


def status(lab: Lab, held: Waiting, wanted: str) -> str:
    """The request's status once it is `wanted`, or after a while whatever it is."""
    deadline = time.monotonic() + 10
    found = ""
    while found != wanted and time.monotonic() < deadline:
        found = next(entry["status"] for entry in approvals(lab) if entry["id"] == held.id)
        time.sleep(0.05)
    return found

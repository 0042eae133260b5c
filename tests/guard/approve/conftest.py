"""A book of approvals on a real state store, and who asks and decides."""

from __future__ import annotations

import asyncio

import pytest

from guard.approve import ApprovalBook, ApprovalError
from guard.state import StateAccess, StateStore
from protocols.contract import Analysis, Effect, HoldTerms, Principal, Resource

NOW = 1_800_000_000.0
AGENT = Principal("agent-7", "https://idp.example", frozenset({"agents"}), expires_at=NOW + 86400)
ALICE = Principal("alice", "https://idp.example", frozenset({"oncall"}), expires_at=NOW + 86400)
BOB = Principal("bob", "https://idp.example", frozenset({"oncall", "dba"}), expires_at=NOW + 86400)
SHOP = Resource("shop", "postgres")
ANALYSIS = Analysis(kind="drop table", effects=frozenset({Effect.DDL_DROP}), writes=("public.orders",))
ONCALL = HoldTerms(approver_groups=frozenset({"oncall"}))
DIGEST = b"\x01" * 32


class Bench:
    """A book on a real store, with everything that it told others."""

    def __init__(self, path, **options):
        self.now = NOW
        self.journal: list[tuple[str, dict]] = []
        self.sent: list[tuple[str, dict]] = []
        self.store = StateStore(path, journal=self.event)
        self.state = StateAccess(self.store)
        self.book = ApprovalBook(self.state, self, self, lambda: self.now, gateway="g1", **options)

    def close(self):
        asyncio.run(self.state.close(5))
        self.store.close()

    async def leave(self):
        """Closes it inside a loop."""
        await self.state.close(5)
        self.store.close()

    def event(self, kind, payload):
        self.journal.append((kind, dict(payload)))
        return len(self.journal)

    def send(self, event, data):
        self.sent.append((event, dict(data)))

    async def ask(self, *, principal=AGENT, terms=ONCALL, text="DROP TABLE orders", digest=DIGEST, params=()):
        return await self.book.request("s1", principal, SHOP, terms, text, digest, ANALYSIS, "hold-ddl", params)

    def kinds(self):
        return [kind for kind, _ in self.journal]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


@pytest.fixture
def bench(path):
    made = Bench(path)
    yield made
    made.close()


@pytest.fixture
def loop():
    with asyncio.Runner() as runner:
        yield runner.get_loop()


def in_loop(work):
    """Run a test's body inside an event loop; its futures live there."""
    return asyncio.run(work())


async def refused(asked, match):
    with pytest.raises(ApprovalError, match=match):
        await asked


async def settled(bench):
    """Once the store was told, or could not be told, of what was withdrawn and is overdue."""
    await asyncio.wait([bench.book._leftovers._tidying])

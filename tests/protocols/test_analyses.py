"""What sessions share of what was analysed: by meaning, bounded."""

from __future__ import annotations

from protocols.analyses import AnalysisCache
from protocols.contract import Analysis
from protocols.postgres.statements import CommandAnalysis
from tests.support import mysql_wire as wire
from tests.support.mysql_talk import Talk
from tests.support.repeating import kept_of


def test_a_meaning_keeps_its_number_and_no_other_gets_it() -> None:
    cache = AnalysisCache()
    plain, other = ("UTF8", ("public",)), ("UTF8", ("evil",))
    first = cache.number(plain)
    assert cache.number(other) != first
    assert cache.number(("UTF8", ("public",))) == first
    seen = {first, cache.number(other)}
    for n in range(5000):
        number = cache.number(("UTF8", (f"s{n}",)))
        assert number not in seen
        seen.add(number)
        if n % 100 == 0:
            assert cache.number(plain) == first  # asked for again and again, it stays
    assert cache.number(other) not in seen  # long not asked for


def test_meanings_are_bounded_by_the_names_that_they_know() -> None:
    cache = AnalysisCache()
    plain = cache.number(("UTF8",))
    for n in range(20):
        cache.number(("UTF8", tuple(f"v{i}" for i in range(n, n + 10_000))))
    assert sum(len(one[1]) for one in cache._meanings if len(one) > 1) <= 65536
    assert cache.number(("UTF8",)) != plain
    assert cache.number(tuple((f"v{i}",) for i in range(100_000))) != cache.number(("UTF8",))


def test_long_texts_take_the_room_of_several() -> None:
    cache = AnalysisCache()
    for n in range(10_000):
        cache.texts[n] = CommandAnalysis(Analysis("select", frozenset(), shape="x" * (8192 if n % 2 else 10)))
    assert len(cache.texts) < 1000


def test_a_session_that_knows_many_names_does_not_fill_the_cache_with_them() -> None:
    """Each of its statements gives its next ones another meaning."""
    talk = Talk()

    def said(text: str) -> None:
        talk.client(wire.query(text))
        talk.server(wire.packets(1, wire.ok()))

    talk.state.variables.update((f"v{n}", talk.state.variable("x")) for n in range(3000))

    def asked() -> None:
        for n in range(40):
            said(f"SET @w{n} = 1")
            talk.client(wire.query(f"SELECT total FROM orders WHERE id = 'a{n}'"))
            talk.server(wire.result([wire.column("total", "orders")], []))

    assert kept_of(talk, asked) < 6 << 20

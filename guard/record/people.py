"""When two subjects are one person. Whoever counts people, keeps them out or looks for what they did asks here."""

from __future__ import annotations

import unicodedata
from functools import lru_cache


def same_person(one: str, other: str) -> bool:
    """Whether two subjects are taken for one person, whatever issuers vouch for them and however they are spelt.

    Where people are counted, or must not decide on their own doings: two accounts, or a capital letter, are no two
    pairs of eyes.
    """
    return plainly(one) == plainly(other)


@lru_cache(maxsize=4096)
def plainly(subject: str) -> str:
    """A subject without what two spellings of it differ in."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", subject).casefold())

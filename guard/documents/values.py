"""Checks of values that every document needs."""

from __future__ import annotations

from collections.abc import Sized


def not_empty[T: Sized](value: T) -> T:
    """A list or mapping with something in it.

    Used in place of pydantic's own length check, which hides the problems of the items when it fails.
    """
    if not value:
        raise ValueError("must not be empty; name at least one, or leave the key out")
    return value

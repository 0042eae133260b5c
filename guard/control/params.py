"""Reading the parameters of a call: each by name, with its type and bound; what is left over is an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from guard.control.wire import ControlError

MAX_TEXT = 1000  # characters


class Params:
    """The parameters of one call. Every method raises ControlError(bad_request)."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._left = dict(params)

    def text(self, name: str, *, default: str | None = None) -> str:
        """A printable text; required when there is no default."""
        value = self.optional_text(name)
        if value is None:
            if default is None:
                raise ControlError("bad_request", f"`{name}` is required")
            return default
        return value

    def optional_text(self, name: str) -> str | None:
        """A printable text, not empty, or None."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
            raise ControlError("bad_request", f"`{name}` must be a text of 1 to {MAX_TEXT} characters")
        if not all(char.isprintable() or char in "\n\t" for char in value):
            raise ControlError("bad_request", f"`{name}` holds control characters")
        return value

    def optional_number(self, name: str) -> float | None:
        """A finite number that is not negative, or None."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ControlError("bad_request", f"`{name}` must be a number that is not negative")
        return float(value)

    def number(self, name: str, *, default: float, most: float) -> float:
        """A number from 0 to `most`."""
        value = self.optional_number(name)
        if value is None:
            return default
        if value > most:
            raise ControlError("bad_request", f"`{name}` must be at most {most:g}")
        return value

    def flag(self, name: str) -> bool | None:
        """true, false or None."""
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, bool):
            raise ControlError("bad_request", f"`{name}` must be true or false")
        return value

    @property
    def left(self) -> dict[str, Any]:
        """What nobody has asked for yet."""
        return dict(self._left)

    def done(self) -> None:
        """Nothing may be left: a misspelt filter would silently widen an answer."""
        if self._left:
            unknown = ", ".join(f"`{str(name)[:64]}`" for name in sorted(self._left))
            raise ControlError("bad_request", f"unknown parameter {unknown}")

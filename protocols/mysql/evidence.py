"""MySQL's part of what goes on record. The rest is `protocols.records`."""

from __future__ import annotations

from protocols.records import MAX_PARAM, MAX_TEXT, command, command_static, response, text_field

__all__ = ["MAX_PARAM", "MAX_TEXT", "command", "command_static", "response", "shown", "text_field"]


def shown(text: str, limit: int = MAX_PARAM) -> str:
    """A parameter as the record has it: cut at `limit` characters, and saying so."""
    return text if len(text) <= limit else text[:limit] + f"... ({len(text)} characters)"

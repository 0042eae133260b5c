"""Strict YAML documents: read with positions, validated by pydantic, every problem reported at once.

The configuration and the policies are both such documents; this package knows neither. Secrets: a problem names keys
and expectations and never repeats a value that could be one.

INVARIANT: nothing is guessed. A duplicate key, an unknown key, an alias, a tag or a second document is a problem.
"""

from guard.documents.problems import ConfigError, Problem
from guard.documents.reader import Document, read
from guard.documents.validate import validate

__all__ = ["ConfigError", "Document", "Problem", "read", "validate"]

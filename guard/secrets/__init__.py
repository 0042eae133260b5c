"""Where the gateway's own credentials come from. The configuration only says where they are; here they are read.

A provider is one file with one function and one line in `PROVIDERS`. `Secrets` adds what all of them share: a bounded
wait, one read for many callers, and errors that name the place and never the value.

INVARIANT: a value leaves this package inside a `Secret` only, and a `Secret` shows nothing.
"""

from guard.secrets.secret import Secret, SecretError
from guard.secrets.store import PROVIDERS, Provider, SecretRef, Secrets, resolve

__all__ = ["PROVIDERS", "Provider", "Secret", "SecretError", "SecretRef", "Secrets", "resolve"]

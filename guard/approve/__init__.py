"""Held commands: who may release one, once, before it expires, for exactly the bytes that were shown.

`ApprovalBook` joins the waiting connections of this process with the requests in the shared state store; `webhooks`
tells people that something waits. The store is the truth: nothing is released by memory alone.

INVARIANT: a held command is released by `spend` returning, and by nothing else; every failure on the way is a refusal.
"""

from guard.approve.book import ApprovalBook, ApprovalError, Held, Notifier, Outcome
from guard.approve.webhooks import SIGNATURE_HEADER, Webhooks, sign, verify_signature

__all__ = [
    "SIGNATURE_HEADER",
    "ApprovalBook",
    "ApprovalError",
    "Held",
    "Notifier",
    "Outcome",
    "Webhooks",
    "sign",
    "verify_signature",
]

"""Held commands: who may release one, once, before it expires, for exactly the bytes that were shown.

`ApprovalBook` joins the waiting connections of this process with the requests in the shared state store; `webhooks`
tells people that something waits. The store is the truth: nothing is released by memory alone.

INVARIANT: a held command is released by `spend` returning, and by nothing else; every failure on the way is a refusal.
"""

from guard.approve.book import ApprovalBook
from guard.approve.held import ApprovalError, Held, Notifier
from guard.approve.webhooks import Webhooks

__all__ = [
    "ApprovalBook",
    "ApprovalError",
    "Held",
    "Notifier",
    "Webhooks",
]

"""The authoritative mutable state of a gateway: containment, revocation, approvals, the session registry.

Everything here is transactional and shared by every process that opens the same database file. Nothing is cached
between calls: an answer is what the database says now. What cannot be read or written is a `StateError`, and the caller
denies.
"""

from guard.state.access import LoopJournal, LostAnswer, StateAccess
from guard.state.approvals import Approval, ApprovalConflict, Approvals, ApprovalStatus, Vote
from guard.state.database import StateError
from guard.state.registry import SessionEntry, Sessions
from guard.state.store import ChangeToken, StateStore

__all__ = [
    "Approval",
    "ApprovalConflict",
    "ApprovalStatus",
    "Approvals",
    "ChangeToken",
    "LoopJournal",
    "LostAnswer",
    "SessionEntry",
    "Sessions",
    "StateAccess",
    "StateError",
    "StateStore",
    "Vote",
]

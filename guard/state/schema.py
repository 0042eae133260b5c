"""The tables of the state database. `VERSION` is kept in SQLite's `user_version`.

Times are seconds since the epoch (float, UTC). JSON columns hold plain text made by this package alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text, text

VERSION = 2
APPLICATION_ID = 0x534C4754  # "SLGT": an arbitrary SQLite file is not taken for a state database

metadata = MetaData()

# One row per scope; bumped in the same transaction as the change, so that a poll sees both or neither.
changes = Table(
    "changes",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("counter", Integer, nullable=False),
)

containment = Table(
    "containment",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
)

revocations = Table(
    "revocations",
    metadata,
    Column("token_id", Text, primary_key=True),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", Text, primary_key=True),
    Column("session_id", Text, nullable=False),
    Column("gateway", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("params", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("terms", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("requested_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("decided_at", Float),
    Column("reason", Text, nullable=False),
    # since version 2
    Column("meaning", LargeBinary, nullable=False, server_default=text("x''")),
    Column("deferred", Boolean, nullable=False, server_default=text("0")),
    Index("approvals_status", "status", "requested_at"),
    Index("approvals_deferred", "subject", "deferred", "status"),
)

# what makes version N of N - 1
MIGRATIONS: Mapping[int, Sequence[str]] = {
    2: (
        "ALTER TABLE approvals ADD COLUMN meaning BLOB NOT NULL DEFAULT x''",
        "ALTER TABLE approvals ADD COLUMN deferred BOOLEAN NOT NULL DEFAULT 0",
        "CREATE INDEX approvals_deferred ON approvals (subject, deferred, status)",
    ),
}

# The key leaves the issuer out: one person with tokens of two issuers still has one vote.
votes = Table(
    "votes",
    metadata,
    Column("approval_id", Text, ForeignKey("approvals.id"), primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("issuer", Text, nullable=False),
    Column("approve", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("gateway", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("application", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("end_reason", Text, nullable=False),
    Index("sessions_live", "ended_at", "gateway"),
    Index("sessions_subject", "subject", "started_at"),
)

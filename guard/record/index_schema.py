"""The tables of the index: what the journal says, arranged for questions. It can always be deleted and rebuilt.

`seq` is the record's number in the journal; times are integers, ns since the epoch. What repeats is stored once and
shared: statement texts, *profiles* (what a command does: effects, relations, columns) and the column lists of results.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, Table, Text

VERSION = 2
APPLICATION_ID = 0x534C4749  # "SLGI"

metadata = MetaData()

# One row: the journal this index is of, and the cursor behind the last record in it.
progress = Table(
    "progress",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("journal_id", LargeBinary, nullable=False),
    Column("segment", Integer, nullable=False),
    Column("offset", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    # grows whenever rows are deleted: whoever remembers ids of rows must forget them
    Column("generation", Integer, nullable=False, default=0),
)

# What lies in which segment; a row for each segment that is (or was, when it was read) there.
segments = Table(
    "segments",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("first_at", Integer, nullable=False),
    Column("last_at", Integer, nullable=False),
    Column("records", Integer, nullable=False),
    Column("payload", Integer, nullable=False),  # bytes
)

# The acts of the tombstones, as far as the tables here follow them.
removals = Table(
    "removals",
    metadata,
    Column("segment", Integer, primary_key=True),
    Column("act", Integer, primary_key=True),  # its place in the tombstone
    Column("run", Text, nullable=False),
    Column("level", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", Integer, nullable=False),
    Column("first_at", Integer, nullable=False),
    Column("last_at", Integer, nullable=False),
    Column("records", Integer, nullable=False),
    Column("size", Integer, nullable=False),  # bytes of payload
    Column("kept", Integer, nullable=False),
    Column("counts", Text, nullable=False),  # JSON: {kind: records}
    Index("removals_at", "first_at", "last_at"),
)

# Segments at which retention has looked with which goal, so that it need not look again. Lost with the index: then it
# looks again, and finds nothing to do.
examined = Table(
    "examined",
    metadata,
    Column("segment", Integer, primary_key=True),
    Column("goal", Text, primary_key=True),
    Column("kept", Integer, nullable=False),  # by holds
    Column("later", Integer, nullable=False),  # because the session goes on in a younger segment
    Column("holds", Text, nullable=False),  # digest of those in force
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("session", Text, nullable=False, unique=True),
    Column("subject", Text, nullable=False, default=""),
    Column("issuer", Text, nullable=False, default=""),
    Column("resource", Text, nullable=False, default=""),
    Column("protocol", Text, nullable=False, default=""),
    Column("client", Text, nullable=False, default=""),
    Column("application", Text, nullable=False, default=""),
    Column("facts", Text, nullable=False, default="{}"),  # the whole session.start record
    Column("started_at", Integer, nullable=False),
    Column("ended_at", Integer),
    Column("end_reason", Text, nullable=False, default=""),
    Column("commands", Integer, nullable=False, default=0),
    Column("denied", Integer, nullable=False, default=0),
    Column("held", Integer, nullable=False, default=0),
    Column("rows", Integer, nullable=False, default=0),
    Column("bytes", Integer, nullable=False, default=0),
    Index("sessions_subject", "subject", "started_at"),
    Index("sessions_started", "started_at"),
    Index("sessions_open", "ended_at"),
)

texts = Table(
    "texts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("text", Text, nullable=False),
)

profiles = Table(
    "profiles",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("facts", Text, nullable=False),  # JSON: kind, effects, reads, writes, columns
)

profile_effects = Table(
    "profile_effects",
    metadata,
    Column("effect", Text, primary_key=True),
    Column("profile", Integer, primary_key=True),
)

profile_relations = Table(
    "profile_relations",
    metadata,
    Column("relation", Text, primary_key=True),  # schema.name
    Column("access", Text, primary_key=True),  # read | write
    Column("profile", Integer, primary_key=True),
    Column("name", Text, nullable=False),  # without its schema
    Index("profile_relations_name", "name"),
)

results = Table(
    "results",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("columns", Text, nullable=False),  # JSON: [{name, masked}]
)

commands = Table(
    "commands",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("session", Integer, nullable=False),
    Column("n", Integer, nullable=False),
    Column("at", Integer, nullable=False),
    Column("decision", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("approval", Text),
    Column("text", Integer, nullable=False),
    Column("profile", Integer, nullable=False),
    Column("params", Text),
    Column("segment", Integer, nullable=False),
    Column("offset", Integer, nullable=False),
    Index("commands_session", "session", "n"),
    Index("commands_at", "at"),
    Index("commands_profile", "profile"),
    Index("commands_text", "text"),
    Index("commands_decision", "decision", "at"),
    Index("commands_segment", "segment"),
)

responses = Table(
    "responses",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("session", Integer, nullable=False),
    Column("n", Integer, nullable=False),
    Column("at", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("us", Integer, nullable=False),
    Column("tag", Text, nullable=False),
    Column("sqlstate", Text),
    Column("result", Integer),
    Column("segment", Integer, nullable=False),
    Column("offset", Integer, nullable=False),
    Index("responses_session", "session", "n"),
    Index("responses_result", "result"),
    Index("responses_segment", "segment"),
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("session", Integer),
    Column("at", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("facts", Text, nullable=False),  # the whole record as JSON
    Column("segment", Integer, nullable=False),
    Column("offset", Integer, nullable=False),
    Index("events_session", "session"),
    Index("events_kind", "kind", "at"),
    Index("events_segment", "segment"),
)

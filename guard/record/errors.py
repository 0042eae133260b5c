"""What can go wrong with the record. Nothing here is ever swallowed: no record, no forwarding."""

from __future__ import annotations

from protocols.contract import RecordFailed


class RecordError(RecordFailed):
    """The record cannot be written, opened or read. The caller denies; the text tells the operator what to do."""


class DamagedJournal(RecordError):
    """Bytes of the journal are not what was written: `segment` and `offset` say where, `seq` which record if known."""

    def __init__(self, segment: int, offset: int, why: str, *, seq: int | None = None, torn: bool = False) -> None:
        record = "" if seq is None else f", record {seq}"
        super().__init__(f"segment {segment}{record} at byte {offset}: {why}")
        self.segment = segment
        self.offset = offset
        self.seq = seq
        self.why = why
        self.torn = torn  # the file simply ends inside a record, as after a killed process

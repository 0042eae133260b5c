"""The journal, its index, redaction, replay and verification.

`Recorder` writes; everything else reads the files that it wrote. Nothing here knows a wire protocol.
"""

from guard.record.errors import DamagedJournal, RecordError
from guard.record.journal import Recorder, RecordSettings

__all__ = ["DamagedJournal", "RecordError", "RecordSettings", "Recorder"]

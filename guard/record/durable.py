"""Getting the journal onto the disk without holding up traffic: one thread that only waits in fsync.

It writes `head.json` only after the records that it names are on the disk, so a power loss can never leave a head that
is ahead of its journal: a head that is ahead means that somebody cut the journal.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from guard.record.recovery import HEAD_FILE


def write_head(folder: Path, payload: bytes) -> None:
    """Replace the head file, whole or not at all. Raises OSError."""
    temporary = folder / (HEAD_FILE + ".tmp")
    with temporary.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / HEAD_FILE)


def sync_folder(folder: Path) -> None:
    """Make created and renamed names in the folder durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Syncer:
    """Syncs the newest state it was given; what piles up meanwhile is done in one go. `error` stays set once it
    failed."""

    def __init__(self, folder: Path) -> None:
        self.error: OSError | None = None
        self._folder = folder
        self._wake = threading.Condition()
        self._files: list[int] = []
        self._head: bytes | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()

    def submit(self, file: int, head: bytes) -> None:
        """Sync this file (its descriptor is duplicated), then publish `head`. Returns at once; raises OSError."""
        duplicate = os.dup(file)
        with self._wake:
            self._files.append(duplicate)
            self._head = head
            self._wake.notify()

    def close(self) -> None:
        """Finish what was submitted."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._files or self._stop):
                    self._wake.wait()
                files, head = self._files, self._head
                self._files, self._head = [], None
                if not files and self._stop:
                    return
            try:
                if self.error is None:
                    for file in files:
                        os.fsync(file)
                    sync_folder(self._folder)
                    if head is not None:
                        write_head(self._folder, head)
            except OSError as error:
                self.error = error
            finally:
                for file in files:
                    os.close(file)

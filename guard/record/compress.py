"""Finished segments are compressed (gzip), one at a time, by whoever calls this: the indexer process, never the
gateway."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guard.record.durable import sync_folder
from guard.record.errors import RecordError
from guard.record.reader import segment_name, segments

_BLOCK = 1 << 20
_LEVEL = 6


def compress_finished(folder: Path, below: int) -> list[int]:
    """Compress plain segments with a number under `below` that have a successor. Returns their numbers.

    The original goes only after the copy was written, synced, read back and found equal. Raises RecordError.
    """
    done = []
    known = segments(folder)
    newest = max(known, default=0)
    for number, path in known.items():
        if number < min(below, newest) and path.name == segment_name(number):
            _compress(path)
            done.append(number)
    return done


@contextmanager
def gzip_writer(path: Path) -> Iterator[gzip.GzipFile]:
    """Writes a compressed segment, for its owner only; on the disk when the block ends well. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as raw:
        # No name and no time in the header: the same segment always gives the same bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=raw, mtime=0) as target:
            yield target
        raw.flush()
        os.fsync(raw.fileno())


def _compress(path: Path) -> None:
    packed = path.with_suffix(".seg.gz")
    temporary = path.with_suffix(".seg.gz.tmp")
    try:
        with path.open("rb") as source, gzip_writer(temporary) as target:
            shutil.copyfileobj(source, target, _BLOCK)
        if _digest(path, packed=False) != _digest(temporary, packed=True):
            temporary.unlink()
            raise RecordError(f"compressing `{path}` did not give back the same bytes; check the disk")
        temporary.rename(packed)
        sync_folder(path.parent)
        path.unlink()
    except (OSError, EOFError) as error:
        temporary.unlink(missing_ok=True)
        raise RecordError(f"cannot compress `{path}`: {error}") from error


def _digest(path: Path, *, packed: bool) -> bytes:
    digest = hashlib.sha256()
    with gzip.open(path, "rb") if packed else path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()

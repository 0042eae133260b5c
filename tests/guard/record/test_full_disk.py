"""A full disk: nothing is half recorded, everything is denied, and recording resumes when there is space again."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from guard.record import Recorder, RecordError
from guard.record.keys import load_public
from guard.record.reader import Cursor, follow
from guard.record.verify import verify
from tests.support.disk import file_size_limit

type Make = Callable[..., Recorder]


def numbers(folder: Path, kind: str) -> list[int]:
    return [json.loads(r.payload)["n"] for r, _ in follow(folder, Cursor()) if r.kind == kind]


def test_a_write_cut_short_is_undone_denied_and_recovered_from(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    recorder.command(b'{"n":1}')
    recorder.buffer("response", b'{"n":1}')
    size = recorder.position().offset
    with file_size_limit(size + 200):  # room for the response, not for the command behind it
        with pytest.raises(RecordError, match="free space"):
            recorder.command(b'{"n":2}')
        assert (recorder.folder / "00000001.seg").stat().st_size == size
        for call in (
            lambda: recorder.command(b"{}"),
            lambda: recorder.buffer("response", b"{}"),
            lambda: recorder.event("alert", {}),
            recorder.flush,
            recorder.tick,
        ):
            with pytest.raises(RecordError):
                call()
        assert recorder.failed
        assert not recorder.recover()
        assert recorder.failed
    assert recorder.recover()
    assert recorder.failed is None
    recorder.command(b'{"n":3}')
    recorder.close()
    assert numbers(recorder.folder, "command") == [1, 3]
    assert numbers(recorder.folder, "response") == [1]
    (why,) = [json.loads(r.payload) for r, _ in follow(recorder.folder, Cursor()) if r.kind == "journal.recovered"]
    assert "free space" in why["why"]
    assert verify(recorder.folder, load_public(tmp_path / "keys" / "journal.pub")).ok


def test_commands_of_a_batch_that_could_not_be_written_are_dropped(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    recorder.buffer("command", b'{"n":1}')
    recorder.buffer("response", b'{"n":0}')
    with file_size_limit(recorder.position().offset + 10), pytest.raises(RecordError):
        recorder.flush()
    assert recorder.recover()
    assert numbers(recorder.folder, "command") == []
    assert numbers(recorder.folder, "response") == [0]


def test_a_segment_that_cannot_be_started_leaves_the_old_one_as_it_was(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = make(tmp_path, segment_bytes=10)
    before = recorder.position()
    real = os.open

    def no_space(path: object, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_EXCL:
            raise OSError(28, "No space left on device")
        return real(path, flags, mode)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", no_space)
    with pytest.raises(RecordError, match="No space left"):
        recorder.command(b'{"n":1}')
    assert recorder.position() == before
    assert not recorder.recover()
    monkeypatch.undo()
    assert recorder.recover()
    recorder.command(b'{"n":2}')
    recorder.close()
    assert numbers(recorder.folder, "command") == [2]
    assert verify(recorder.folder, load_public(tmp_path / "keys" / "journal.pub")).ok


def test_dying_in_the_failed_state_loses_nothing_that_was_written(tmp_path: Path, make: Make) -> None:
    recorder = make(tmp_path)
    recorder.command(b'{"n":1}')
    with file_size_limit(recorder.position().offset + 100), pytest.raises(RecordError):
        recorder.command(b'{"n":2}')
    recorder._abandon()
    reopened = make(tmp_path)
    assert numbers(reopened.folder, "command") == [1]


def test_a_really_full_file_system(tmp_path: Path, make: Make) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        recorder = make(small / "state")
        ballast = small / "ballast"
        ballast.write_bytes(bytes(150_000))
        written = 0
        while recorder.failed is None:
            with suppress(RecordError):
                recorder.command(b'{"n":%d,"x":"%s"}' % (written, b"x" * 2000))
                written += 1
        assert "No space left" in recorder.failed
        assert written > 3
        assert not recorder.recover() or recorder.failed is None
        ballast.unlink()
        assert recorder.recover()
        recorder.command(b'{"n":%d}' % written)
        recorder.close()
        assert numbers(recorder.folder, "command") == list(range(written + 1))
        assert verify(recorder.folder, load_public(small / "state" / "keys" / "journal.pub")).ok
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)

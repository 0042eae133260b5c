"""The mask key file: made once, private, and never replaced silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.mask.keys import KEY_BYTES, MaskKeyError, load_or_create


def test_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "mask.key"
    key = load_or_create(path)
    assert len(key) == KEY_BYTES
    assert load_or_create(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["mask.key"]


def test_two_starts_at_once_share_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "mask.key"

    def late(n: int) -> bytes:
        load_or_create(path, lambda size: b"a" * size)  # another gateway was quicker
        return b"b" * n

    # the process number is the same here, so the other's draft is gone again before ours is made
    assert load_or_create(path, late) == b"a" * KEY_BYTES


@pytest.mark.parametrize("content", [b"", b"short", b"x" * (KEY_BYTES + 1)])
def test_a_damaged_key_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mask.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(MaskKeyError, match=r"mask\.key"):
        load_or_create(path)
    assert path.read_bytes() == content


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.key"
    load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(MaskKeyError, match="chmod 600"):
        load_or_create(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MaskKeyError, match="cannot be read or written"):
        load_or_create(tmp_path / "file" / "mask.key")


def test_a_link_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real.key"
    load_or_create(real)
    (tmp_path / "mask.key").symlink_to(real)
    with pytest.raises(MaskKeyError):
        load_or_create(tmp_path / "mask.key")

"""Files that are there whole or not at all."""

import os

import pytest

from sdk_bridge.files import make_file, replace_file

WRITERS = pytest.mark.parametrize("write", [replace_file, make_file])


@WRITERS
def test_a_file_is_there_with_its_content_and_mode_and_nothing_beside_it(tmp_path, write):
    write(tmp_path / "key", b"secret", 0o600)
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["key"]


def test_the_mode_does_not_hang_on_what_was_there(tmp_path):
    replace_file(tmp_path / "list", b"old", 0o600)
    replace_file(tmp_path / "list", b"new", 0o644)
    assert (tmp_path / "list").read_bytes() == b"new"
    assert (tmp_path / "list").stat().st_mode & 0o777 == 0o644


def test_a_new_file_never_takes_anothers_place(tmp_path):
    make_file(tmp_path / "key", b"first", 0o600)
    with pytest.raises(FileExistsError):
        make_file(tmp_path / "key", b"second", 0o600)
    assert (tmp_path / "key").read_bytes() == b"first"
    assert [one.name for one in tmp_path.iterdir()] == ["key"]


@WRITERS
def test_a_full_disk_leaves_what_was_there_and_no_draft(tmp_path, write, monkeypatch):
    (tmp_path / "key").write_bytes(b"old")

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "key", b"new", 0o600)
    assert (tmp_path / "key").read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["key"]

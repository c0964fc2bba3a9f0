"""Files are written whole or not at all, and text is read in one way."""

from __future__ import annotations

import os
import stat

import pytest

from twospeed.errors import InputError, OutputError
from twospeed.files import atomic_file, make_folder, read_text, write_json, write_text


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()

    def fail_half_way():
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_half_way()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "missing" / "a.txt", "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        make_folder(tmp_path / "file")


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX knows them")
def test_permissions_are_those_of_a_new_file(tmp_path):
    plain, ours = tmp_path / "plain", tmp_path / "ours.bin"
    plain.write_text("")
    with atomic_file(ours) as temporary:
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_text_is_utf8_with_or_without_a_mark(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffäö".encode())
    assert read_text(path) == "äö"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_text(path)
    with pytest.raises(InputError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_text(tmp_path / "none")
    with pytest.raises(InputError, match="of up to 2 bytes"):
        read_text(path, most_bytes=2)

"""Writing that leaves the old content or the new, and texts without the folders of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import InputError
from benchmark.files import replacing, unfinished, without_paths, write_whole


def test_a_write_that_breaks_off_leaves_the_old_content_and_no_part(tmp_path: Path):
    file = tmp_path / "folder" / "file"
    write_whole(file, "old")

    def interrupted() -> None:
        with replacing(file) as stream:
            stream.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    assert [path.name for path in file.parent.iterdir()] == ["file"]
    write_whole(file, b"new")
    assert file.read_text() == "new"


def test_what_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/x: cannot be written: "):
        write_whole(tmp_path / "file" / "x", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ada/data/CUB/res101.mat: cannot be read", "res101.mat: cannot be read"),
        ("No such file: '/home/ada/secret folder/weights.pt'", "No such file: 'weights.pt'"),
        ("C:\\Users\\ada\\x.mat is missing", "x.mat is missing"),
        ("(/tmp/a/b.py:3 in fit)", "(b.py:3 in fit)"),
        ("T1 / H in percent, 3/4 of them, and/or more", "T1 / H in percent, 3/4 of them, and/or more"),
        ("data/CUB is relative", "data/CUB is relative"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(text: str, expected: str):
    assert without_paths(text) == expected


def test_what_a_killed_process_left_is_found_by_the_name_of_its_file(tmp_path: Path):
    file = tmp_path / "key-s[1].json"
    with replacing(file), replacing(tmp_path / "key-s[1]0.json"):
        (left,) = unfinished(file)
        assert left.parent == tmp_path
        assert left.name.startswith(".")
    assert unfinished(file) == []

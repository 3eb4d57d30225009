"""A file gets its name when it is whole, writes through no link, and stays as readable as it was."""

import os
import stat

import pytest

from annotated_decoder.trained import whole_files
from annotated_decoder.trained.whole_files import check_target, part_of, replace_file, write_new


@pytest.mark.parametrize("kind", ["a link", "a link to nothing", "a file", "a folder"])
def test_a_link_that_lies_ready_is_not_written_through(kind, tmp_path):
    mine, ready = tmp_path / "mine", tmp_path / "ready"
    mine.write_text("mine")
    if kind == "a file":
        ready.write_text("mine")
    elif kind == "a folder":
        ready.mkdir()
    else:
        ready.symlink_to(mine if kind == "a link" else tmp_path / "nothing")
    with pytest.raises(FileExistsError):
        write_new(ready, b"overwritten")
    assert mine.read_text() == "mine" and not (tmp_path / "nothing").exists()


def test_a_name_that_is_taken_is_drawn_anew(tmp_path, monkeypatch):
    drawn = iter(["first", "first", "second"])
    monkeypatch.setattr(whole_files.secrets, "token_hex", lambda n: next(drawn))
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "m-first.part").symlink_to(tmp_path / "mine")
    assert part_of(tmp_path / "m").name == "m-second.part"
    assert (tmp_path / "mine").read_text() == "mine"


def test_two_names_are_never_alike(tmp_path):
    assert len({part_of(tmp_path / "m") for _ in range(99)}) == 99


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_a_file_that_is_replaced_keeps_its_permissions(mode, tmp_path):
    target = tmp_path / "m"
    target.write_text("old")
    target.chmod(mode)
    replace_file(check_target(target), b"new")
    assert target.read_text() == "new" and stat.S_IMODE(target.stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["m"]

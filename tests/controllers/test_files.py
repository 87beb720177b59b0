"""Files and folders that are written whole: what is on the disk by when, and what an error leaves."""

import os
from pathlib import Path

import pytest
from trimtab.controllers.files import names_to_disk, replacing, tree_to_disk


@pytest.fixture
def written(monkeypatch):
    """The paths that the operating system was told to write to the disk, in their order."""
    paths = []
    monkeypatch.setattr(os, "fsync", lambda handle: paths.append(Path(os.readlink(f"/proc/self/fd/{handle}"))))
    return paths


def test_all_of_a_tree_is_on_the_disk_and_folders_after_what_is_in_them(tmp_path, written):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("one", "a/two", "a/b/three"):
        (tmp_path / name).write_text(name)
    tree_to_disk(tmp_path)
    assert sorted(written) == sorted([tmp_path, *tmp_path.rglob("*")])
    place = {path: k for k, path in enumerate(written)}
    assert all(place[path] < place[path.parent] for path in tmp_path.rglob("*"))


def test_what_replaces_a_file_is_on_the_disk_before_it_has_the_name(tmp_path, written):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert written == [temporary]
    assert temporary != path
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def broken():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_where_folders_can_not_be_opened(tmp_path, monkeypatch):
    names_to_disk(tmp_path / "none")

    def fails(handle):
        raise OSError("no such thing for folders")

    monkeypatch.setattr(os, "fsync", fails)
    names_to_disk(tmp_path)

"""Paths and URLs of stores, and small files beside them."""

from pathlib import Path

import pytest

from jaxllc.locations import Location


def test_urls_of_local_files_are_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("run/llc.zarr", "~/run/llc.zarr", f"file://{tmp_path}/run/llc.zarr", f"local://{tmp_path}/run/llc.zarr", Path("run/llc.zarr")):
        assert (str(Location(path)), Location(path).is_local) == (str(tmp_path / "run/llc.zarr"), True)
    assert not Location("s3://bucket/run/").is_local
    assert str(Location("s3://bucket/run/")) == "s3://bucket/run"


def test_a_url_that_pathlib_has_shortened_is_refused():
    with pytest.raises(ValueError, match=r"'s3:/bucket/run' is a URL that pathlib has shortened; pass it as text, 's3://bucket/run'"):
        Location(Path("s3://bucket/run"))


def test_of_two_files_of_one_name_the_first_stays_whole(tmp_path, monkeypatch):
    """With links, and on a file system that has none."""
    folder = Location(tmp_path / "beside")
    assert [folder.create("a/lock", "first"), folder.create("a/lock", "second")] == [True, False]
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    assert [folder.create("b", "first"), folder.create("b", "second")] == [True, False]
    assert (folder.read("a/lock"), folder.read("b"), folder.names("a"), folder.names()) == ("first", "first", ["lock"], ["a", "b"])


def test_a_folder_that_cannot_be_is_an_error_and_no_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    with pytest.raises(FileNotFoundError):
        Location(tmp_path / "none").create("a/lock", "mine")

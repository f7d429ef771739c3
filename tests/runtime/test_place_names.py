"""Places in object stores and on this machine: how they are written, joined and compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.runtime import places
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import Url, place


def test_a_url_is_named_as_a_path_is() -> None:
    url = place("s3://bucket/runs/voices/")
    assert url == Url("s3", "bucket/runs/voices")
    assert (str(url), url.name, str(url.parent)) == ("s3://bucket/runs/voices", "voices", "s3://bucket/runs")
    assert str(url / "a/b") == "s3://bucket/runs/voices/a/b"
    assert str(url.with_name("c")) == "s3://bucket/runs/c"
    assert url.parent.parent.parent == url.parent.parent == Url("s3", "bucket")
    assert place("runs/voices") == Path("runs/voices")


@pytest.mark.parametrize("text", ["http://host/x", "s3:///key", "gs://", "s3://user:pw@bucket/x"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        place(text)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package gcsfs, which the extra gs has; run pip install gcsfs"):
        places.filesystem(Url("gs", "bucket/x"))


@pytest.mark.parametrize(
    ("folder", "path", "whole", "below"),
    [
        ("/data", "a.wav", "/data/a.wav", True),
        ("/data", "/other/a.wav", "/other/a.wav", False),
        ("/data", "s3://b/a.wav", "s3://b/a.wav", False),
        ("s3://b/x", "y/a.wav", "s3://b/x/y/a.wav", True),
        ("s3://b/x", "s3://b/xy/a.wav", "s3://b/xy/a.wav", False),
        ("s3://b/x", "/data/a.wav", "/data/a.wav", False),
        ("/", "data/a.wav", "/data/a.wav", True),
    ],
)
def test_paths_are_joined_and_compared(folder: str, path: str, whole: str, below: bool) -> None:
    assert places.joined(folder, path) == whole
    assert places.is_absolute(whole)
    assert places.is_below(whole, folder) is below


def test_the_common_folder_keeps_the_bucket() -> None:
    assert places.common_folder(["s3://b/x/y", "s3://b/x/z"]) == "s3://b/x"
    assert places.common_folder(["s3://b/x", "s3://b/y"]) == "s3://b"
    assert places.common_folder(["/a/b", "/a/c"]) == "/a"
    assert places.common_folder(["s3://b/x", "/a"]) == ""
    assert places.common_folder(["s3://b/x", "s3://c/x"]) == ""

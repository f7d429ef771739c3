"""A bucket is listed page by page, and memory holds one page."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from pipeline.runtime import remote_files
from pipeline.runtime.remote_files import names_in, walk_url

PAGE = 3
KEYS = ["c/.hidden/x", "c/a b.wav", "c/a.txt", "c/a.wav", "c/b/.x.wav", "c/b/1.wav", "c/b/2.wav", "c/z.wav"]


class Store:
    """A bucket whose keys are listed in the order of S3."""

    def __init__(self) -> None:
        self.pages = 0
        self.req_kw = {"RequestPayer": "requester"}

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, method: str, **asked: Any) -> dict[str, Any]:
        assert (method, asked["Bucket"], asked["RequestPayer"]) == ("list_objects_v2", "bucket", "requester")
        self.pages += 1
        prefix, delimiter, first = asked["Prefix"], asked["Delimiter"], int(asked.get("ContinuationToken", 0))
        keys = [key for key in KEYS if key.startswith(prefix)]
        keys = [key for key in keys if not delimiter or delimiter not in key.removeprefix(prefix)]
        page = {"Contents": [{"Key": key} for key in keys[first : first + PAGE]]} if keys[first:] else {}
        return page | {"IsTruncated": first + PAGE < len(keys), "NextContinuationToken": str(first + PAGE)}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr(remote_files, "filesystem", lambda _: store)
    return store


def test_the_keys_below_a_url_come_in_order_without_hidden_ones(store: Store) -> None:
    assert [*walk_url("s3://bucket/c")] == ["a b.wav", "a.txt", "a.wav", "b/1.wav", "b/2.wav", "z.wav"]
    assert [*walk_url("s3://bucket")] == [f"c/{key}" for key in walk_url("s3://bucket/c")]
    assert [*walk_url("s3://bucket/nothing")] == []
    assert [*names_in("s3://bucket/c/b")] == [".x.wav", "1.wav", "2.wav"]


def test_a_page_is_asked_for_when_it_is_needed(store: Store) -> None:
    first = [*islice(walk_url("s3://bucket/c"), 2)]
    assert first == ["a b.wav", "a.txt"]
    assert store.pages == 1

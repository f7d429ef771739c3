"""How stores are reached: what fsspec's own configuration says counts, and each error says what may be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec.config
import pytest
from azure.core.exceptions import HttpResponseError
from gcsfs.retry import HttpError

from pipeline.runtime.errors import StoreError, UserError
from pipeline.runtime.places import Busy, Url, filesystem, place, reaching

URL = Url("s3", "bucket/run")


class ClientError(Exception):
    """What botocore raises."""

    def __init__(self, status: int) -> None:
        super().__init__("An error occurred")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class FakeAnswer:
    """What Azure's client has got."""

    reason = "said"

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


def translated(error: Exception, status: int) -> Exception:
    """The error as s3fs raises it."""
    error.__cause__ = ClientError(status)
    return error


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (translated(FileNotFoundError("no key"), 404), FileNotFoundError, "s3://bucket/run"),
        (translated(OSError(22, "At least one of the conditions"), 412), FileExistsError, "s3://bucket/run"),
        (translated(OSError(5, "a conflicting operation"), 409), Busy, "a conflicting operation"),
        (
            translated(OSError(16, "Please reduce\nyour rate"), 503),
            StoreError,
            "s3://bucket/run: .*reduce your rate; what",
        ),
        (
            translated(PermissionError("Access Denied"), 403),
            UserError,
            r"refuses this \(Access Denied\); check the name",
        ),
        (HttpError({"code": 409, "message": "conflict"}), Busy, "conflict, 409"),
        (OSError("Forbidden: https://storage.googleapis.com/b"), UserError, "refuses this .Forbidden"),
        (
            HttpResponseError("No such container.\nRequestId:1", FakeAnswer(404)),
            FileNotFoundError,
            "bucket/run",
        ),
        (HttpResponseError("It is busy.\nRequestId:1", FakeAnswer(503)), StoreError, "run: It is busy.; what"),
        (OSError(28, "No space left on device"), OSError, "No space"),
        (TimeoutError(), StoreError, "s3://bucket/run: TimeoutError; what was committed stays"),
    ],
)
def test_an_error_says_whose_it_is(error: Exception, expected: type[Exception], said: str) -> None:
    with pytest.raises(expected, match=said) as caught, reaching(URL):
        raise error
    assert type(caught.value) is expected


def test_options_of_fsspec_count(monkeypatch: pytest.MonkeyPatch) -> None:
    own: dict[str, Any] = {}
    said = {
        "FSSPEC_S3": '{"config_kwargs": {"read_timeout": 120, "s3": {"addressing_style": "path"}}}',
        "FSSPEC_S3_REQUESTER_PAYS": "true",
        "FSSPEC_S3_MAX_CONCURRENCY": "4",
    }
    fsspec.config.set_conf_env(own, said)
    monkeypatch.setattr(fsspec.config, "conf", own)
    found = filesystem(URL)
    assert found.req_kw == {"RequestPayer": "requester"}
    assert found.max_concurrency == 4
    assert found.config_kwargs["read_timeout"] == 120
    assert found.config_kwargs["s3"] == {"addressing_style": "path"}
    assert found.config_kwargs["retries"]["total_max_attempts"] == 8


def test_a_place_is_a_path_or_a_url() -> None:
    assert place("runs/voices") == Path("runs/voices")
    assert place("s3://bucket/runs/voices/") == Url("s3", "bucket/runs/voices")
    assert str(place("s3://bucket/runs") / "a") == "s3://bucket/runs/a"
    assert place("s3://bucket").name == "bucket"


def test_a_connection_string_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=aHVudGVyMg==;EndpointSuffix=core.windows.net"
    signed = "https://me.blob.core.windows.net/c/x?sv=2025&sig=aHVudGVyMg%3D%3D"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", secret)
    with pytest.raises(StoreError) as caught, reaching(Url("az", "c/x")):
        raise RuntimeError(f"{secret} at {signed}, AccountKey=aHVudGVyMg==;")
    assert "aHVudGVyMg" not in str(caught.value)

"""Azure Blob Storage on this machine, by azurite, a program of Node.js: `npm install azurite`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

ACCOUNT, KEY = "tests", "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiBvdmVybmlnaHQgc3BlZWNo"
_LISTENS = re.compile(r"successfully listens on (\S+)")


@dataclass
class Store:
    """The server: where it is."""

    url: str

    def environment(self, key: str = KEY) -> dict[str, str]:
        """Variables by which any client finds the server."""
        return {
            "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};"
            f"BlobEndpoint={self.url}/{ACCOUNT};"
        }

    def client(self) -> Any:
        """What asks the server without the pipeline and fsspec."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(*self.environment().values())

    def contents(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """The objects of a container below a prefix, by name."""
        container = self.client().get_container_client(bucket)
        return {
            name: container.download_blob(name).readall() for name in container.list_blob_names(name_starts_with=prefix)
        }


def forget_clients() -> None:
    """Let clients read the environment again."""
    from adlfs import AzureBlobFileSystem

    AzureBlobFileSystem.clear_instance_cache()


@contextmanager
def serving(bucket: str) -> Iterator[Store]:
    """A server with a container while the context lasts. Clients of servers that there were before are forgotten."""
    azurite = shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("needs azurite, which .ci/run installs: npm install azurite@3.35.0, and its bin in the PATH")
    given = ["--blobPort", "0", "--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    environment = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    with subprocess.Popen([azurite, *given], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = next(filter(None, map(_LISTENS.search, process.stdout)))
            store = Store(said[1])
            store.client().create_container(bucket)
            forget_clients()
            yield store
        finally:
            process.kill()

"""Finds the recordings in any folder. A `.txt` file beside a recording is its reference transcript."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from pipeline.datasets import refuse_empty, require_folder, walk_files
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path

# First the formats that libsndfile decodes, then those that FFmpeg decodes. FFmpeg comes with the extra `formats`;
# without the extra, such a recording is a failure whose message names the extra. Not in the list are formats without a
# header (raw, gsm, vox), formats that need a second file or a certain name (sd2), and MATLAB files, which rarely hold
# audio.
# fmt: off
EXTENSIONS = (
    "wav", "wave", "bwf", "wavex", "rf64", "w64", "flac", "ogg", "oga", "opus", "mp3", "mp2", "aif", "aiff",
    "aifc", "au", "snd", "caf", "sph", "nist", "voc", "8svx", "svx", "iff", "avr", "htk", "ircam", "sf",
    "paf", "pvf", "sds", "wve", "xi",
    "m4a", "m4b", "mp4", "m4v", "mov", "3gp", "3g2", "webm", "weba", "mkv", "mka", "wma", "wmv", "asf", "aac",
    "amr", "awb", "spx",
)
# fmt: on
_MAX_REFERENCE_BYTES = 2**20


@dataclass
class Options:
    """The options `dataset.*` of `dataset=folder`.

    Attributes:
        root: The folder.
        extensions: Extensions of the recordings, with or without dot, in upper or lower case.
    """

    root: str = MISSING
    extensions: list[str] = field(default_factory=lambda: list(EXTENSIONS))


class Dataset:
    """The recordings below a folder, recognised by their extensions.

    The id is the path relative to the root, with `/` and the extension; undecodable bytes appear as `%XX`.
    """

    def __init__(self, options: Options) -> None:
        self.root = require_folder(options.root)
        self.extensions = {extension.removeprefix(".").lower() for extension in options.extensions}
        if not self.extensions or "" in self.extensions:
            given = ",".join(options.extensions)
            raise UserError(f"dataset.extensions=[{given}]: must be a list of extensions, such as [wav,flac]")
        self.run_name = f"folder-{encode_path(os.path.basename(self.root)) or 'root'}"
        self.notice: str | None = None

    def columns(self) -> dict[str, str]:
        """Return no columns, because a folder says nothing about its recordings."""
        return {}

    def utterances(self) -> Iterator[Utterance]:
        """Yield every recording, sorted bytewise by its path.

        Raises:
            UserError: There are no recordings, or a folder cannot be read.
        """
        endings = ", ".join(sorted(self.extensions))
        message = f"dataset.root={self.root}: no recordings found; looked for files that end in {endings}"
        return refuse_empty(self._utterances(), message)

    def _utterances(self) -> Iterator[Utterance]:
        for relative in walk_files(self.root):
            stem, extension = os.path.splitext(relative)
            if extension[1:].lower() in self.extensions:
                path = os.path.join(self.root, relative)
                reference = read_reference(os.path.join(self.root, f"{stem}.txt"))
                yield Utterance(id=encode_path(relative.replace(os.sep, "/")), path=path, reference=reference)


def read_reference(path: str) -> str | None:
    """Return the text of a file without surrounding white space; `None` if the file has no text.

    The file is UTF-8, or UTF-16 with a byte order mark. Bytes that cannot be decoded become U+FFFD. A file that is not
    regular, cannot be read or is larger than 1 MB counts as no reference.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_REFERENCE_BYTES:
            return None
        with open(path, "rb") as file:
            data = file.read(_MAX_REFERENCE_BYTES)
    except OSError:
        return None
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace").strip() or None

"""Any folder of recordings, with a `.txt` beside a recording as its reference."""

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

# What libsndfile decodes, then what takes FFmpeg (`formats` extra; without it they end in failures that name it).
# Left out: headerless ones (raw, gsm, vox), those that need their own name or a second file (sd2), and MATLAB's,
# which seldom hold audio.
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
    """`dataset.*` of `dataset=folder`.

    Attributes:
        root: The folder.
        extensions: Of the files that are recordings, with or without dot, in any case.
    """

    root: str = MISSING
    extensions: list[str] = field(default_factory=lambda: list(EXTENSIONS))


class Dataset:
    """Recordings below a folder, by the extension of their names.

    The id is the path relative to the root, with `/` and the extension; undecodable bytes as `%XX`.
    """

    def __init__(self, options: Options) -> None:
        self.root = require_folder(options.root)
        self.extensions = {extension.removeprefix(".").lower() for extension in options.extensions}
        if not self.extensions or "" in self.extensions:
            given = ",".join(options.extensions)
            raise UserError(f"dataset.extensions=[{given}]: not extensions; give some, such as [wav,flac]")
        self.run_name = f"folder-{encode_path(os.path.basename(self.root)) or 'root'}"
        self.notice: str | None = None

    def columns(self) -> dict[str, str]:
        """A folder says nothing of its recordings."""
        return {}

    def utterances(self) -> Iterator[Utterance]:
        """Every recording, sorted bytewise by its path.

        Raises:
            UserError: There is none, or a folder cannot be read.
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
    """The text of a file without surrounding white space; `None` if it has none.

    UTF-8, or UTF-16 with a byte order mark; what cannot be decoded becomes U+FFFD. Something that is not a
    regular file, cannot be read or is larger than 1 MB is no reference.
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

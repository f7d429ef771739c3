"""Archives as the source of a corpus: which ones can be read, what they hold, and what is said of the others."""

from __future__ import annotations

import os

from pipeline.audio.archives.contents import COMPRESSED, ENDINGS, Contents, Entry, Shelf, member_in, read_entry
from pipeline.datasets import Warnings, require_folder
from pipeline.datasets.formats.values import MAX_TEXT_BYTES, shown
from pipeline.records import Utterance
from pipeline.runtime.errors import AudioError, UserError
from pipeline.runtime.paths import encode_path
from pipeline.runtime.places import absolute, is_url
from pipeline.runtime.remote_files import is_there
from pipeline.runtime.terminal import counted


def require_folder_or_archive(root: str, endings: tuple[str, ...] = ENDINGS) -> str:
    """Return the absolute path of `dataset.root`, `~` expanded: a folder, or an archive with one of these endings.

    Raises:
        UserError: Nothing is given, or it is neither, or it is an archive that cannot be read member by member.
    """
    path, ends = absolute(root), " or ".join(endings)
    if is_url(path) and not path.lower().endswith((*COMPRESSED, *endings)):
        if not is_there(path):
            raise UserError(
                f"dataset.root={root}: no object has a name that begins so, or the store does not show it to this user"
                "; give the place of recordings, and check the credentials"
            )
        return path
    if root in ("", "???") or not (is_url(path) or os.path.isfile(path)):
        return require_folder(root, f"give the folder that holds the recordings, or a file that ends in {ends}")
    if path.lower().endswith(COMPRESSED):
        raise UserError(
            f"dataset.root={root}: a compressed archive, of which no member can be read without all those before it; "
            "unpack it, or for a tar take only the compression away, with gunzip, and give the .tar"
        )
    if not path.lower().endswith(endings):
        raise UserError(f"dataset.root={root}: not a folder; give one, or an archive that ends in {ends}")
    return path


class Packed:
    """The archives of a corpus, each listed once."""

    def __init__(self) -> None:
        """List nothing yet."""
        self._shelf = Shelf()

    def contents(self, archive: str, warnings: Warnings) -> Contents:
        """Return what an archive holds, and count the files that another one of the same name replaces."""
        found = self._shelf.contents(archive)
        name = encode_path(os.path.basename(archive))
        for place in found.repeated:
            warnings.add("files of an archive with a name that a later one has too, which counts", f"{name}: {place}")
        return found

    def path(self, archive: str, entry: Entry) -> str:
        """Return the path of a recording in an archive."""
        return member_in(archive, entry).path

    def read(self, archive: str, entry: Entry) -> bytes:
        """Return a small file of an archive; of a larger one more than its first 1 MB.

        Raises:
            ValueError: It cannot be read.
        """
        try:
            return read_entry(archive, entry, MAX_TEXT_BYTES + 1)
        except AudioError as error:
            raise ValueError(error.message) from None
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from None


def broken(archive: str, id_: str, contents: Contents) -> Utterance:
    """Return the utterance that stands for what is lost of a damaged archive. It is a failure."""
    files = counted(len(contents.entries), "file")
    error = f"{shown(id_)}: {contents.damage}; {files} before that can be read; restore the archive"
    return Utterance(id=encode_path(id_), path=archive, error=error)

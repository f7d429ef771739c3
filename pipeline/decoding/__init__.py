"""Decoders turn emissions into transcripts.

A decoder is a module of this package, or of another package that has an entry point in the group
`overnight_speech.decoders`. The module has a dataclass `Options` and a class
`Decoder(options, labels, seconds_per_frame)` that implements the protocol `Decoder` below. The fields of `Options` are
the keys `decoder.*` of the configuration, and part of the run's identity. `Options` may have a method `files()`, which
says what fields are paths of files: then the content of the files is part of the identity, and the paths are not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pipeline.records import Labels, UtteranceEmission
from pipeline.records.transcripts import Transcripts
from pipeline.runtime.digests import sha256_files
from pipeline.runtime.errors import UserError
from pipeline.runtime.plugins import Modules

DECODERS = Modules("decoder.name", "pipeline.decoding", "Decoder", "overnight_speech.decoders")
"""The decoders by the value of `decoder.name`. `DECODERS.load(name)` imports one."""

_KEY = "decoder."


class Decoder(Protocol):
    """Decodes the emissions of whole utterances.

    The constructor reads the files of the options and refuses those that do not fit, so that a run is refused before it
    computes anything. A decoder may be constructed in one process and called in processes that are forked from it. It
    can be pickled.

    Attributes:
        wants_logits: Whether the decoder reads `UtteranceEmission.logits`. If it does not, logits are not copied from
            the device, and a long utterance takes only 12 bytes per frame.
    """

    wants_logits: ClassVar[bool]

    def __call__(self, emissions: Sequence[UtteranceEmission]) -> Transcripts:
        """Return the transcripts of one or more utterances, in order. Word times are seconds in the original file.

        A decoder of single utterances returns `Transcripts.of([self.decode(each) for each in emissions])`.
        """
        ...


def files_of(options: Any) -> dict[str, Sequence[Path]]:
    """Return the files that determine what a decoder does, by the field of its options that names them."""
    found: dict[str, Sequence[Path]] = options.files() if hasattr(options, "files") else {}
    return found


def identity_of(options: Any) -> dict[str, Any]:
    """Return the options of a decoder, by keys that start with `decoder.`. A file stands there with its SHA-256.

    Raises:
        OSError: A file cannot be read.
    """
    found = {f"{_KEY}{key}": value for key, value in asdict(options).items()}
    return found | {f"{_KEY}{key}": sha256_files(paths) for key, paths in files_of(options).items()}


def paths_of(options: Any) -> dict[str, str]:
    """Return the absolute paths of a decoder's files, by the keys of `identity_of`."""
    return {f"{_KEY}{key}": os.path.abspath(getattr(options, key)) for key in files_of(options)}


def make(
    name: str, options: Mapping[str, Any], files: Mapping[str, str], labels: Labels, seconds_per_frame: float
) -> Decoder:
    """Create the decoder that a run's identity describes.

    Args:
        name: The choice of the group `decoder`.
        options: Options of the identity. Keys of the decoder start with `decoder.`. A file is there with its SHA-256.
        files: Paths of these files, by the same keys.
        labels: Labels of the model.
        seconds_per_frame: Seconds from one frame to the next.

    Raises:
        UserError: A file is not there, was changed, does not fit the labels or is damaged, or the decoder needs a
            package that is not installed.
    """
    module = DECODERS.load(name)
    named = {**options, **files}
    own = module.Options(**{key.removeprefix(_KEY): value for key, value in named.items() if key.startswith(_KEY)})
    for field, paths in files_of(own).items():
        if sha256_files(paths) != options[f"{_KEY}{field}"]:
            path = files[f"{_KEY}{field}"]
            raise UserError(f"{_KEY}{field}={path}: was changed since the run began; put the file of the run back")
    decoder: Decoder = module.Decoder(own, labels, seconds_per_frame)
    return decoder

"""A file of a person's own weights, loaded into the architecture of a model of the catalogue."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.models.catalog import MODELS
from pipeline.models.labels import FAIRSEQ_SPECIAL, LABEL_SETS, WORD_BOUNDARY, read_labels
from pipeline.models.sources import OneFile, check_sha256, checked_sha256
from pipeline.runtime.digests import sha256_files
from pipeline.runtime.errors import UserError, one_of

if TYPE_CHECKING:
    from torchaudio.models import Wav2Vec2Model

NAMES = ("checkpoint",)
_PIECE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What stands for a space in the labels of SentencePiece."""


@dataclass
class Options:
    """`model.*` of a file of weights.

    Attributes:
        checkpoint: The file: safetensors or torch.
        architecture: The model of the catalogue whose architecture the weights have.
        labels: The labels in the order of the logits, blank first: a list, a file such as fairseq's dict.ltr.txt, or
            the name of a label set. `None` for those of the model that `architecture` names.
        sha256: The only SHA-256 that the weights may have; `None` for any.
    """

    checkpoint: str | None = None
    architecture: str | None = None
    labels: Any = None
    sha256: str | None = None


class Source(OneFile):
    """A file of weights. Fits `ModelSource`."""

    remedy = "give the file that has it"

    def __init__(self, name: str, options: Options) -> None:
        """Check the options; the file itself is looked at by `check_file`.

        Raises:
            UserError: A required option is missing; there is no such architecture or label set; a list of labels
                cannot be one; `sha256` is no SHA-256.
        """
        if not options.checkpoint:
            raise UserError("model.checkpoint is required and has no default; add model.checkpoint=FILE")
        if options.architecture is None:
            raise UserError(
                f"model.architecture is required and has no default; add one of {', '.join(MODELS)} "
                f"(`python -m pipeline.models` describes them)"
            )
        one_of("model.architecture", options.architecture, list(MODELS))
        self.typed_path, self.architecture = options.checkpoint, options.architecture
        self.weights_path = Path(os.path.abspath(os.path.expanduser(options.checkpoint)))
        self.sha256 = checked_sha256(options.sha256)
        base = MODELS[options.architecture]
        labels = base.labels if options.labels is None else _labels(options.labels)
        silent = frozenset(index for index, label in enumerate(labels) if index and label in FAIRSEQ_SPECIAL)
        self.facts = replace(base, name=name, origin=None, labels=labels, delimiter=_delimiter(labels), silent=silent)

    @classmethod
    def from_record(cls, name: str, identity: Mapping[str, Any], weights_path: str) -> Source:
        """The source that a run used, with the file where it was."""
        options = Options(
            checkpoint=weights_path,
            architecture=identity["model.architecture"],
            labels=identity["model.labels"],
        )
        source = cls(name, options)
        source.check_file()
        return source

    def identity(self) -> dict[str, Any]:
        """The architecture and the labels."""
        return {"model.architecture": self.architecture, "model.labels": list(self.facts.labels)}

    def check_file(self) -> None:
        """Refuse a file that is missing or begins like no file of weights. Nothing in the file is executed.

        Raises:
            UserError: With the file, the reason and what to give.
        """
        said = f"model.checkpoint={self.typed_path}"
        if not self.weights_path.is_file():
            reason = "is not a file" if self.weights_path.exists() else "no such file"
            raise UserError(f"{said}: {reason}; give a file of weights, safetensors or torch")
        try:
            with open(self.weights_path, "rb") as file:
                head = file.read(9)
        except OSError:
            return  # `fetch` says why
        # safetensors, torch's zip, or torch's older pickles.
        if head[8:] != b"{" and head[:2] not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04"):
            raise UserError(f"{said}: neither safetensors nor a torch file; give a file of weights")

    def fetch(self) -> str:
        """See `ModelSource.fetch`."""
        try:
            found = sha256_files([self.weights_path])
        except OSError as error:
            raise UserError(
                f"model.checkpoint={self.weights_path}: cannot be read ({error.strerror}); give a file of weights"
            ) from None
        check_sha256(self, found)  # before a byte is unpickled
        return found

    def build(self) -> Wav2Vec2Model:
        """See `ModelSource.build`. Weights in half precision become float32."""
        from pipeline.models.checkpoint import load_checkpoint

        return load_checkpoint(self.weights_path, self.architecture, self.facts.labels).eval()


def _delimiter(labels: Sequence[str]) -> str | None:
    """The label between two words: `|`, or the mark of SentencePiece where no other label has it."""
    if WORD_BOUNDARY in labels:
        return WORD_BOUNDARY
    return _PIECE if [label for label in labels if _PIECE in label] == [_PIECE] else None


def _labels(value: Any) -> tuple[str, ...]:
    """The labels that `model.labels` gives: a list, a file, or the name of a label set."""
    if isinstance(value, str) and value in LABEL_SETS:
        return LABEL_SETS[value]
    if isinstance(value, str):
        return _distinct(f"model.labels={value}", _of_file(value))
    if not isinstance(value, list):
        raise UserError(f"model.labels={value}: must be null, a list, a file, or one of {', '.join(LABEL_SETS)}")
    said = f"model.labels=[{','.join(map(str, value))}]"
    for label in value:
        # YAML reads a digit as a number, and `true` or `null` without quotes as no text.
        if isinstance(label, bool) or not isinstance(label, str | int) or str(label).split() != [str(label)]:
            raise UserError(
                f"{said}: {label!r} is not a label; give text without spaces, quoted where it means something else: "
                f"[-,'|',a,b,'null']"
            )
    return _distinct(said, tuple(map(str, value)))


def _of_file(typed: str) -> tuple[str, ...]:
    """The labels of a file."""
    path = Path(os.path.abspath(os.path.expanduser(typed)))
    if not path.exists() and os.sep not in typed and not path.suffix:
        one_of("model.labels", typed, list(LABEL_SETS), "; or give a list, blank first, or a file such as dict.ltr.txt")
    try:
        return read_labels(path)
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except ValueError as error:
        reason = str(error)
    raise UserError(f"model.labels={typed}: {reason}; give fairseq's dict.ltr.txt, or a file with a label on each line")


def _distinct(said: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) != len(labels):
        twice = next(label for index, label in enumerate(labels) if label in labels[:index])
        raise UserError(f"{said}: has {twice!r} twice; give each label once, in the order of the logits")
    if len(labels) == 1 or labels[:1] == (WORD_BOUNDARY,):
        raise UserError(f"{said}: the blank comes first, then the labels, in the order of the logits: [-,'|',a,b]")
    return labels

"""Checkpoints of transformers, from a folder or fetched by name: Wav2Vec2, HuBERT, WavLM, UniSpeech, UniSpeechSat."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.models.facts import ModelFacts
from pipeline.models.huggingface import hub
from pipeline.models.huggingface.config import read_config
from pipeline.models.huggingface.folder import WEIGHTS, adapter_names
from pipeline.models.huggingface.processor import EPSILON, read_waveforms
from pipeline.models.huggingface.vocabulary import languages, read_vocabulary
from pipeline.models.sources import check_sha256, checked_sha256
from pipeline.runtime.digests import sha256_files
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from torchaudio.models import Wav2Vec2Model

NAMES = ("huggingface",)


@dataclass
class Options:
    """`model.*` of a checkpoint of transformers.

    Attributes:
        checkpoint: The folder, or `owner/name` of a repository of the Hugging Face Hub, with `@revision` or without.
        language: The language, for a checkpoint that has a vocabulary for each of several.
        sha256: The only SHA-256 that the weights may have; `None` for any.
    """

    checkpoint: str | None = None
    language: str | None = None
    sha256: str | None = None


class Source:
    """A checkpoint of transformers. Fits `ModelSource`."""

    remedy = "give the checkpoint that has it"

    def __init__(self, name: str, options: Options) -> None:
        """Read the files that describe the checkpoint; one that is asked for by name is first looked up.

        Raises:
            UserError: There is no such checkpoint, or it is one that cannot be run; the language is missing or is not
                there; `sha256` is no SHA-256.
        """
        if not options.checkpoint:
            raise UserError("model.checkpoint is required and has no default; add model.checkpoint=DIR or =owner/name")
        self.sha256 = checked_sha256(options.sha256)
        self._folder = hub.find(options.checkpoint)
        self._config = config = read_config(self._folder)
        waveforms = read_waveforms(self._folder)
        self._language = options.language
        self._adapts = False  # whether the language has a file of its own
        labels: dict[str, Any] = {}
        if config.has_labels:
            there = languages(self._folder) if config.adapter is not None else []
            labels = read_vocabulary(self._folder, None if there else config.num_labels, options.language)._asdict()
            # A fine-tune to one language may have the adapters among its other weights.
            self._adapts = bool(there) and (len(there) > 1 or self._folder.has_adapter(str(options.language)))
        elif options.language is not None:
            raise self._folder.refusal(f"model.language={options.language}: it has no labels; leave model.language out")
        body = config.body(waveforms.normalize, EPSILON)
        self.facts = ModelFacts(name, body, sample_rate=waveforms.sample_rate, **labels)

    @classmethod
    def from_record(cls, name: str, identity: Mapping[str, Any], weights_path: str) -> Source:
        """The source that a run used, in the folder where its weights were."""
        folder = Path(weights_path).parent
        _refuse_gone(folder, [Path(weights_path)])
        source = cls(name, Options(checkpoint=str(folder), language=identity.get("model.language")))
        now, keys = source.identity(), {key for key in identity if key.startswith("model.")}
        differ = sorted(key for key in keys | {*now} if now.get(key) != identity.get(key))
        if differ:
            raise UserError(
                f"model.checkpoint={folder}: its description is not the one that the run was made with "
                f"({', '.join(differ)}); put those files back"
            )
        _refuse_gone(folder, source.weights_files)
        source.check_file()
        return source

    @property
    def run_name(self) -> str:
        """The checkpoint and the language, for the name of the run directory."""
        parts = [self.facts.name, self._folder.name, self._language or ""]
        return "-".join(re.sub(r"[^\w.-]", "_", part) for part in parts if part)

    @property
    def pinned(self) -> str | None:
        """`owner/name@commit` of a checkpoint that was asked for by name."""
        return self._folder.pinned

    @property
    def weights_path(self) -> Path:
        """The file that holds the weights, or the index that names the files that do."""
        there = (self._folder.path / name for name in WEIGHTS)
        return next((path for path in there if path.is_file()), self._folder.path / WEIGHTS[0])

    @property
    def weights_files(self) -> tuple[Path, ...]:
        """The files that hold the weights; the file of a language last."""
        files = self._folder.weights_files()
        return (*files, self._folder.adapter_file(str(self._language))) if self._adapts else files

    def identity(self) -> dict[str, Any]:
        """What the description of the checkpoint says of the encoder, the waveforms and the labels."""
        said: dict[str, Any] = {**asdict(self._config), "sample_rate": self.facts.sample_rate}
        said |= {"normalize_waveform": self.facts.body.normalize_waveform}
        if self.facts.labels:
            said |= {key: getattr(self.facts, key) for key in ("labels", "blank", "delimiter", "lower_case")}
            said |= {"silent": sorted(self.facts.silent), "language": self._language}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in said.items()}
        return {f"model.{key}": value for key, value in plain.items() if value is not None}

    def check_file(self) -> None:
        """Refuse files that cannot hold weights. Those of a repository are fetched by `fetch`.

        Raises:
            UserError: With the file, the reason and what to give.
        """
        if self.pinned is None:
            self._folder.check(self.weights_files)

    def fetch(self) -> str:
        """See `ModelSource.fetch`. Weights in several files have the SHA-256 of the lines that sha256sum writes."""
        if self.pinned is not None:
            self._fetch_missing()
        files = self.weights_files
        self._folder.check(files)
        try:
            found = sha256_files(files)
        except OSError as error:
            raise self._folder.refusal(
                f"{error.filename} cannot be read ({error.strerror}); make it readable"
            ) from None
        check_sha256(self, found)  # before a byte is unpickled
        return found

    def build(self) -> Wav2Vec2Model:
        """See `ModelSource.build`. Weights in half precision become float32."""
        from pipeline.models.huggingface.weights import load

        language = self._folder.adapter_file(str(self._language)) if self._adapts else None
        return load(self._folder, self._folder.weights_files(), language, self._config, len(self.facts.labels)).eval()

    def _fetch_missing(self) -> None:
        """Fetch the files with weights that the snapshot lacks. Its indices are there, if it has any."""
        whole, index, torch_whole, torch_index = (self._folder.path / name for name in WEIGHTS)
        if not self.weights_path.is_file() or not all(path.is_file() for path in self._folder.weights_files()):
            if not index.is_file():
                self._fetch_first([whole.name] if torch_index.is_file() else [whole.name, torch_whole.name])
            for path in self._folder.weights_files():
                if not path.is_file():
                    hub.fetch(self._folder, path.name)
        if self._adapts:
            self._fetch_first(adapter_names(str(self._language)))

    def _fetch_first(self, names: Sequence[str]) -> None:
        """Fetch the first of some files that the repository has, unless one of them is there."""
        if not any((self._folder.path / name).is_file() for name in names):
            any(hub.fetch(self._folder, name) for name in names)


def _refuse_gone(folder: Path, files: Sequence[Path]) -> None:
    """Refuse a snapshot that has left the cache of huggingface_hub, in whole or in part."""
    cached = hub.cached_name(folder)
    if cached and not all(path.is_file() for path in files):
        name, _, commit = cached.rpartition("@")
        raise UserError(
            f"model.checkpoint={cached}: its files are no longer in {folder}; "
            f"fetch them again with `hf download {name} --revision {commit}`"
        )
